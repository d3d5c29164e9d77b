"""Repairing a written caption set: by its captioner, with its teachers' rows, and nothing else."""

import json
from pathlib import Path

import pytest

from distill.cli import main
from reinforced_data import RepairReport, ViewPolicy, audit, caption, reinforce, repair
from reinforced_data.store.columns import caption_sets
from reinforced_data.store.layout import open_store
from reinforced_data.testing import tiny_teacher, write_source
from teachers import RuleCaptioner

QUIET = {"progress": False}


class Says:
    """A captioner behind an address: one fingerprint, and other words whenever it is asked anew."""

    name, fingerprint, needs_image, licence = "says", "c" * 64, False, None
    word = "first"

    def caption(self, requests, num_captions):
        return [[f"the {self.word} caption of {request.key}"] for request in requests]


@pytest.fixture
def store(tmp_path) -> Path:
    """Three shards of four, one teacher, one set by rules and one by a server."""
    source = write_source(tmp_path / "source", 12, samples_per_shard=4)
    settings = {"num_views": 1, "policy": ViewPolicy(num_ops=0), **QUIET}
    reinforce(source, tmp_path / "store", teachers=tiny_teacher(), **settings)
    for name, captioner in (("rules", RuleCaptioner()), ("says", Says())):
        caption(tmp_path / "store", captioner, name=name, teachers=tiny_teacher(), **QUIET)
    return tmp_path / "store"


def harm(store: Path, column: str) -> None:
    """Turn shard 1's file round; its record stays."""
    (record,) = (store / "commits").glob(f"{column}-*/00001.json")
    path = store / json.loads(record.read_text())["data"]
    path.write_bytes(path.read_bytes()[::-1])


def files(store: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in store.rglob("*.arrow")}


def mended(store: Path, *captioners, teachers=True) -> RepairReport:
    members = [tiny_teacher()] if teachers else []
    return repair(store, teachers=members, captioners=captioners, **QUIET)


def units(report: RepairReport) -> list[tuple[str, int]]:
    return [(column.rpartition("-")[0], shard) for column, shard, _ in report.redone]


def test_the_damaged_shard_is_asked_about_again_and_no_other(store):
    before = files(store)
    harm(store, "captions-rules")
    report = mended(store, Says(), RuleCaptioner())
    assert units(report) == [("captions-rules", 1), ("text-tiny-rules", 1)]
    assert report.left == () and report.audit.ok
    # Rules say the same again: every byte is back in its place.
    assert files(store) == before


def test_rows_follow_texts_that_are_not_those_of_then(store):
    harm(store, "captions-says")
    server = Says()
    server.word = "second"
    report = mended(store, server)
    assert units(report) == [("captions-says", 1), ("text-tiny-says", 1)] and report.audit.ok
    opened = open_store(store)
    column = caption_sets(opened.columns())["says"]
    words = [
        {text.split()[1] for (text,) in opened.rows(column, shard)["captions"].to_pylist()}
        for shard in range(3)
    ]
    assert words == [{"first"}, {"second"}, {"first"}]
    assert audit(store, teachers=tiny_teacher(), replay=12, **QUIET).problems == ()


def test_without_captioner_or_teacher_it_is_left_and_said(store):
    harm(store, "captions-says")
    before = files(store)
    report = mended(store, RuleCaptioner())
    assert report.redone == () and not report.audit.ok
    (said,) = report.left
    assert "needs its captioner says, fingerprint cccccccccccc: give --captioners" in said
    (said,) = mended(store, Says(), teachers=False).left
    assert "needs tiny beside its captioner" in said
    assert files(store) == before


def test_the_command(tmp_path, capsys):
    write_source(tmp_path / "source", 12, samples_per_shard=4)
    store = str(tmp_path / "store")
    assert main(["reinforce", str(tmp_path / "source"), store, "--num-views", "1"]) == 0
    assert main(["caption", store, "--name", "rules", "--captioner", "rules"]) == 0
    harm(Path(store), "captions-rules")
    assert main(["audit", store, "--repair"]) == 3
    assert "needs its captioner" in capsys.readouterr().out
    assert main(["audit", store, "--repair", "--captioners", "rules"]) == 0
    assert "repaired: captions-rules-" in capsys.readouterr().out
