"""`import` and `score` are killed and told to stop: the store is that of a calm run."""

import io
import json
import os
import random
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from distill.testing import end, signal_at, start
from reinforced_data import add_scores, audit, import_datacompdr, reinforce
from reinforced_data.datacompdr import importing
from reinforced_data.datacompdr.importing import PublishedTeacher
from reinforced_data.shard_writer import write_shards
from reinforced_data.stop_signals import Interrupted
from reinforced_data.testing import contents, sample, write_source

SAMPLES, SHARDS, WIDTH = 9, 3, 8
TEACHER = PublishedTeacher(name="published", embed_dim=WIDTH, logit_scale=100.0)
SCORES = {f"{number:04d}": number / 7 for number in range(SAMPLES)}


def published(number: int) -> dict[str, bytes | str]:
    """One sample as in Apple's shards, of one view and one synthetic caption."""
    random_rows, rows = np.random.default_rng(number), io.BytesIO()
    arrays = {"image_emb": (1, WIDTH), "text_emb": (2, WIDTH)}
    np.savez(rows, **{name: random_rows.normal(size=size) for name, size in arrays.items()})
    return {
        "__key__": f"{number:04d}",
        "syn.json": json.dumps({"syn_text": [f"picture {number}"]}),
        "paug.json": json.dumps({"param_aug": [[[0, 0, 4, 4], []]]}),
        "npz": rows.getvalue(),
    }


def import_it(folder: str, out: str) -> None:
    import_datacompdr(
        f"{folder}/source",
        f"{folder}/published",
        out,
        num_views=1,
        teachers=[TEACHER],
        progress=False,
    )


def score_it(folder: str, out: str) -> None:
    add_scores(out, "quality", SCORES, progress=False)


VERBS: dict[str, Callable[[str, str], None]] = {"import": import_it, "score": score_it}


def prepare(verb: str, folder: Path, out: Path) -> None:
    """What a score hangs on is there already."""
    if verb == "score":
        reinforce(folder / "source", out, teachers=(), num_views=1, progress=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """What both verbs read."""
    folder = tmp_path_factory.mktemp("read")
    write_source(folder / "source", SAMPLES, samples_per_shard=SAMPLES // SHARDS)
    apples = [published(number) for number in range(SAMPLES)]
    write_shards(folder / "published", apples, samples_per_shard=4)
    assert {sample(number)["__key__"] for number in range(SAMPLES)} == set(SCORES)
    return folder


@pytest.fixture(scope="module", params=list(VERBS))
def calm(request, folder, tmp_path_factory) -> tuple[str, Path, dict]:
    """A verb, and the store that it makes undisturbed, with what is in it."""
    out = tmp_path_factory.mktemp(request.param) / "store"
    prepare(request.param, folder, out)
    VERBS[request.param](str(folder), str(out))
    return request.param, out, contents(out)


def disturbed(verb: str, folder: str, out: str, signum: int, event: int) -> None:
    """Send this process `signum` at the given system call of its writing."""
    signal_at(signum, event)
    try:
        VERBS[verb](folder, out)
    except Interrupted as told:
        assert "the same command goes on from there" in str(told)
        os._exit(told.exit_code)
    os._exit(0)


def assert_calm(out: Path, calm: Path, expected: dict) -> None:
    assert contents(out) == expected
    assert audit(out, progress=False).problems == ()
    files = [sum(path.is_file() for path in place.rglob("*")) for place in (out, calm)]
    assert files[0] == files[1], "something is left of the killed"


def test_killed_at_any_moment_the_same_call_goes_on(calm, folder, tmp_path):
    verb, calm_store, expected = calm
    chance, out = random.Random(3), tmp_path / "store"
    prepare(verb, folder, out)
    # The score's column is three such calls, then a unit is six; an import has a list and more
    # columns. Each kill comes while something is still to be written.
    for _ in range(3):
        event = chance.randint(1, 8 if verb == "score" else 40)
        code = end(start(disturbed, verb, str(folder), str(out), signal.SIGKILL, event))
        assert code == -signal.SIGKILL
        if (out / "sources.json").exists():
            assert contents(out).items() <= expected.items(), "nothing half written is visible"
    VERBS[verb](str(folder), str(out))
    assert_calm(out, calm_store, expected)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_told_to_stop_it_says_how_to_go_on(calm, folder, tmp_path, signum):
    verb, calm_store, expected = calm
    out = tmp_path / "store"
    prepare(verb, folder, out)
    event = 8 if verb == "score" else 60
    code = end(start(disturbed, verb, str(folder), str(out), signum, event))
    assert code == 128 + signum
    assert 0 < len(contents(out)) < len(expected)
    VERBS[verb](str(folder), str(out))
    assert_calm(out, calm_store, expected)


def test_an_import_asks_again_what_others_have_done(folder, tmp_path, monkeypatch):
    looks = []

    class Walk(importing.ShardWalk):
        def __init__(self, *arguments, look) -> None:
            super().__init__(*arguments, look=look)
            looks.append(look)

    monkeypatch.setattr(importing, "ShardWalk", Walk)
    import_it(str(folder), str(tmp_path / "store"))
    assert [look() for look in looks] == [set(range(SHARDS))]
