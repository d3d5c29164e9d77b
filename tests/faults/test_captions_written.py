"""Writing a caption set meets a changed source, a bad captioner, SIGKILL and a second writer."""

import hashlib
import json
import os
import random
import signal
from pathlib import Path

import pytest
import torch

from distill.testing import end, start
from reinforced_data import audit, caption, reinforce
from reinforced_data.stop_signals import Interrupted
from reinforced_data.testing import sample, tiny_teacher, write_source
from teachers import RuleCaptioner

QUIET = {"progress": False}


class Says:
    """A captioner that does what it is told."""

    name, licence = "says", None
    fingerprint = hashlib.sha256(b"says").hexdigest()

    def __init__(self, say, needs_image=False):
        self.say, self.needs_image = say, needs_image

    def caption(self, requests, num_captions):
        return self.say(requests)


@pytest.fixture
def store(tmp_path):
    write_source(tmp_path / "source")
    reinforce(str(tmp_path / "source"), tmp_path / "store", teachers=(), num_views=1, **QUIET)
    return tmp_path / "store"


def commits(store: Path) -> list[Path]:
    return sorted((store / "commits").glob("captions-new-*/*.json"))


def say_all(requests):
    return [[f"text {request.key}"] for request in requests]


@pytest.mark.parametrize("change", ["picture", "key", "fewer", "more"])
def test_a_changed_source_is_noticed_before_anything_is_written(store, tmp_path, change):
    samples = [sample(number) for number in range(12)]
    if change == "picture":
        samples[1] = sample(1, png=sample(2)["png"])
    elif change == "key":
        samples[1] = {**samples[1], "__key__": "0001b"}
    elif change == "fewer":
        samples = samples[:4] + samples[5:]
    write_source(tmp_path / "source", samples, samples_per_shard=6 if change == "more" else 5)
    with pytest.raises(ValueError, match=r"source shard .*00000.tar has changed"):
        caption(store, Says(say_all, needs_image=True), name="new", **QUIET)
    assert commits(store) == []


def test_without_pictures_the_source_is_not_read(store, tmp_path):
    (tmp_path / "source" / "00000.tar").unlink()
    assert caption(store, RuleCaptioner(), name="new", **QUIET).shards == 3
    with pytest.raises(ValueError, match=r"source shard .*00000.tar does not exist"):
        caption(store, Says(say_all, needs_image=True), name="seen", **QUIET)


def test_a_shard_that_cannot_be_read_leaves_the_others(store, tmp_path):
    whole = (tmp_path / "source" / "00001.tar").read_bytes()
    (tmp_path / "source" / "00001.tar").write_bytes(b"<html>")
    says = Says(say_all, needs_image=True)
    report = caption(store, says, name="new", **QUIET)
    assert report.shards == 2 and "00001.tar is truncated" in next(iter(report.failed.values()))
    (tmp_path / "source" / "00001.tar").write_bytes(whole)
    report = caption(store, says, name="new", **QUIET)
    assert (report.shards, report.failed, report.waiting) == (3, {}, 0)


def test_a_captioner_that_is_silent_from_the_start_writes_nothing(store):
    silent = Says(lambda requests: [[] for _ in requests])
    with pytest.raises(ValueError, match=r"no caption for any of the 5 samples.*silent"):
        caption(store, silent, name="new", **QUIET)
    short = Says(lambda requests: [["no"] for _ in requests])
    with pytest.raises(ValueError, match=r"dropped: 5 too-short"):
        caption(store, short, name="new", **QUIET)
    assert commits(store) == []


def test_a_captioner_that_answers_too_little_is_named(store):
    with pytest.raises(ValueError, match=r"'says' answered 0 of 5 requests \('0000' ... '0004'"):
        caption(store, Says(lambda requests: []), name="new", **QUIET)


def test_an_unknown_captioner_is_refused(store):
    assert caption(store, "rules", name="rules", **QUIET).shards == 3
    with pytest.raises(ValueError, match="no captioner 'rule'; did you mean 'rules'"):
        caption(store, "rule", name="new", **QUIET)


@pytest.mark.parametrize("name", ["", "Rules", "a b", "../x", "original"])
def test_names_that_are_none(store, name):
    with pytest.raises(ValueError, match="caption set"):
        caption(store, RuleCaptioner(), name=name, **QUIET)


def test_a_teacher_that_is_not_in_the_store_is_refused(store):
    with pytest.raises(ValueError, match=r"teacher tiny .* has no text_embeddings"):
        caption(store, RuleCaptioner(), name="new", teachers=tiny_teacher(), **QUIET)
    with pytest.raises(ValueError, match=r"teacher tiny .* has no image_embeddings"):
        caption(
            store,
            RuleCaptioner(),
            name="new",
            min_score=0.1,
            score_teacher=tiny_teacher(),
            **QUIET,
        )
    assert not list((store / "columns").glob("*new*"))


def test_a_set_that_is_not_there_is_not_embedded(store):
    caption(store, RuleCaptioner(), name="rules", **QUIET)
    with pytest.raises(ValueError, match="no caption set 'rule'; did you mean 'rules'"):
        caption(store, name="rule", teachers=tiny_teacher(), **QUIET)


def test_a_store_without_samples_says_what_to_do_first(store):
    for path in (store / "commits").rglob("*.json"):
        path.unlink()
    with pytest.raises(ValueError, match="distill reinforce has not finished one"):
        caption(store, RuleCaptioner(), name="rules", **QUIET)


def test_ctrl_c_ends_between_two_batches_and_the_same_call_goes_on(store):
    calls = []

    def interrupted(requests):
        calls.append(len(requests))
        if len(calls) == 4:
            os.kill(os.getpid(), signal.SIGINT)
        return say_all(requests)

    with pytest.raises(Interrupted, match=r"SIGINT with 1 of 3 shards of the caption set 'new'"):
        caption(store, Says(interrupted), name="new", batch_size=2, **QUIET)
    assert len(commits(store)) == 1
    assert caption(store, Says(say_all), name="new", batch_size=2, **QUIET).shards == 3
    assert audit(store).ok


# ------------------------------------------------------------------------------- kills


def contents(store: Path) -> dict[str, tuple]:
    """What two equal stores share."""
    records = [json.loads(path.read_text()) for path in (store / "commits").rglob("*.json")]
    return {
        f"{record['column']}/{record['shard']}": (
            *(record["sha256"], record["rows"], str(record["skipped"])),
        )
        for record in records
    }


def write(path: str, event: int = 0) -> None:
    """Caption and embed, and kill this process at the given system call."""
    torch.set_num_threads(1)
    teacher, seen = tiny_teacher(), 0

    def watched(name: str) -> None:
        original = getattr(os, name)

        def call(*arguments):
            nonlocal seen
            seen += 1
            if seen == event:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*arguments)

        setattr(os, name, call)

    for name in ("fsync", "replace", "link"):
        watched(name)
    caption(
        path, RuleCaptioner(), name="new", num_captions=2, teachers=teacher, batch_size=4, **QUIET
    )


def test_kills_and_a_second_writer_leave_the_store_of_a_calm_run(tmp_path):
    source = write_source(tmp_path / "source", 12, samples_per_shard=3)
    calm, out = tmp_path / "calm", tmp_path / "store"
    for path in (calm, out):
        reinforce(source, path, teachers=tiny_teacher(), num_views=1, **QUIET)
    caption(
        calm,
        RuleCaptioner(),
        name="new",
        num_captions=2,
        teachers=tiny_teacher(),
        batch_size=4,
        **QUIET,
    )
    chance = random.Random(7)
    for _ in range(4):
        # The two columns are 6 such calls, then a unit is 6.
        assert end(start(write, str(out), chance.randint(1, 14))) == -signal.SIGKILL
        assert contents(out).items() <= contents(calm).items()
    both = [start(write, str(out), 9), start(write, str(out))]
    codes = [end(process) for process in both]
    assert codes[1] == 0 and codes[0] in (0, -signal.SIGKILL)
    assert end(start(write, str(out))) == 0
    assert contents(out) == contents(calm)
    assert audit(out, teachers=tiny_teacher()).problems == ()
    assert len([p for p in out.rglob("*") if p.is_file()]) == len(
        [p for p in calm.rglob("*") if p.is_file()]
    )
