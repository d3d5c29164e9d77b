"""`repair`: the store is what it was, nothing else was touched, and killed repairs go on."""

import json
import os
import shutil
import signal
from pathlib import Path

import pyarrow as pa
import pytest
import torch

from distill.cli import main
from distill.testing import in_a_process
from reinforced_data import ViewPolicy, audit, reinforce, repair
from reinforced_data.auditing.repairing import RepairReport
from reinforced_data.stop_signals import Interrupted
from reinforced_data.store.layout import open_store
from reinforced_data.store.storage import Storage
from reinforced_data.testing import (
    encoded,
    picture,
    rewrite_unit,
    sample,
    tiny_teacher,
    write_source,
)
from teachers import Teacher

SETTINGS = {"num_views": 3, "policy": ViewPolicy(scale=(0.4, 0.8), num_ops=1), "progress": False}
COLUMNS = ("index", "captions-original", "views", "image-a", "text-a", "image-b", "text-b")


def teachers() -> list[Teacher]:
    return [tiny_teacher("a", seed=1), tiny_teacher("b", seed=2, embed_dim=12)]


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    samples = [sample(number) for number in range(20)]
    samples[7] = sample(7, png=b"no picture")
    write_source(folder / "source", samples, samples_per_shard=5)
    reinforce(folder / "source", folder / "store", teachers=teachers(), **SETTINGS)
    return folder


@pytest.fixture(scope="module")
def calm(made) -> dict[str, tuple]:
    return contents(made / "store")


@pytest.fixture
def copy(made, tmp_path) -> Path:
    shutil.copytree(made, tmp_path / "copy")
    return tmp_path / "copy"


def contents(store: Path) -> dict[str, tuple]:
    """What two equal stores share, read from the files themselves."""
    found = {}
    opened = open_store(store)
    for column in opened.columns():
        for shard in range(opened.num_shards):
            commit = opened.commit(column, shard)
            if commit is not None:
                rows = opened.committed_rows(commit)
                found[f"{column.name}/{shard}"] = (commit.sha256, rows, commit.skipped)
    return found


def state(store: Path) -> dict[Path, tuple[int, bytes]]:
    files = [path for path in sorted(store.rglob("*")) if path.is_file()]
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def mend(copy: Path, members: list[Teacher] | None = None, **more) -> RepairReport:
    members = teachers() if members is None else members
    return repair(copy / "store", teachers=members, progress=False, **more)


def assert_calm(copy: Path, made: Path, calm: dict[str, tuple]) -> None:
    """Equal to the undisturbed store, whole, and without a file too many."""
    assert contents(copy / "store") == calm
    assert audit(copy / "store", teachers=teachers(), progress=False).problems == ()
    names = [
        sorted(path.parent.name + path.name.split(".")[0] for path in state(folder / "store"))
        for folder in (copy, made)
    ]
    assert names[0] == names[1]


def unit_files(copy: Path, column: str, shard: int) -> tuple[Path, Path]:
    """Record and data file."""
    (folder,) = (copy / "store" / "commits").glob(f"{column}-*")
    record = folder / f"{shard:05d}.json"
    return record, copy / "store" / json.loads(record.read_text())["data"]


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 8
    path.write_bytes(data)


def shift(batch: pa.RecordBatch) -> pa.RecordBatch:
    return batch.take(pa.array([*range(1, batch.num_rows), 0]))


@pytest.mark.parametrize(
    ("column", "harm"),
    [
        *((column, "flipped") for column in COLUMNS),
        ("image-a", "gone"),
        ("index", "record"),
        ("text-b", "record"),
    ],
)
def test_a_damaged_unit_is_done_again_and_nothing_else(made, calm, copy, column, harm):
    record, data = unit_files(copy, column, 1)
    before = state(copy / "store")
    if harm == "flipped":
        flip(data)
    elif harm == "gone":
        data.unlink()
    else:
        record.write_text("{")
    report = mend(copy)
    (redone,) = report.redone
    assert redone[0].startswith(f"{column}-") and redone[1] == 1
    assert redone[2] == ("damaged-record" if harm == "record" else "damaged-file")
    assert report.left == () and report.audit.ok
    assert_calm(copy, made, calm)
    after = state(copy / "store")
    changed = {path for path in before | after if before.get(path) != after.get(path)}
    # The same bytes at the same place; only a new record needs a file of a new name.
    assert changed - {record} <= {data} if harm != "record" else len(changed) == 3
    assert mend(copy).redone == ()
    assert state(copy / "store") == after


@pytest.mark.parametrize("column", ["captions-original", "text-b"])
def test_rows_that_no_checksum_blames(made, calm, copy, column):
    rewrite_unit(copy / "store", column, shift, shard=2)
    report = mend(copy)
    assert [(name.rpartition("-")[0], shard) for name, shard, _ in report.redone] == [(column, 2)]
    assert_calm(copy, made, calm)


def test_wrong_rows_are_looked_for_in_every_shard(made, calm, copy):
    for shard in (0, 2, 3):
        rewrite_unit(copy / "store", "image-b", shift, shard=shard)
    seen = audit(copy / "store", teachers=teachers(), replay=1, seed=0, progress=False)
    assert len(seen.findings) == 1 and len(seen.findings[0].shards) == 1
    report = mend(copy, replay=1, seed=0)
    assert [unit[1] for unit in report.redone] == [0, 2, 3]
    assert {unit[2] for unit in report.redone} == {"wrong-rows"}
    assert_calm(copy, made, calm)


def test_embeddings_that_hang_on_wrong_views_follow_in_a_second_round(made, calm, copy):
    """Views were shifted, and rows written after them."""
    rewrite_unit(copy / "store", "views", shift, shard=3)
    for column in ("image-a", "image-b"):
        rewrite_unit(copy / "store", column, shift, shard=3)
    report = mend(copy)
    names = [unit[0].rpartition("-")[0] for unit in report.redone]
    assert names == ["views", "image-a", "image-b"]
    assert_calm(copy, made, calm)


def test_much_at_once(made, calm, copy):
    for number, column in enumerate(COLUMNS):
        flip(unit_files(copy, column, number % 4)[1])
    unit_files(copy, "text-a", 3)[0].write_text("[]")
    rewrite_unit(copy / "store", "text-b", lambda rows: rows.slice(0, 3), shard=0)
    record, _ = unit_files(copy, "image-b", 2)
    record.write_text(unit_files(copy, "image-b", 3)[0].read_text())
    assert len(mend(copy).redone) == 10
    assert_calm(copy, made, calm)


def test_what_needs_its_teacher_is_left_and_named(made, calm, copy):
    for column in ("index", "image-a", "text-b"):
        flip(unit_files(copy, column, 1)[1])
    report = mend(copy, [tiny_teacher("a", seed=9)])  # another one of that name
    assert [unit[0].rpartition("-")[0] for unit in report.redone] == ["index"]
    wanted = [f"needs its teacher {t.name}, fingerprint {t.fingerprint[:12]}" for t in teachers()]
    assert all(want in text for want, text in zip(wanted, report.left, strict=True))
    assert not report.audit.ok
    assert len(mend(copy).redone) == 2
    assert_calm(copy, made, calm)


# ------------------------------------------------------------------------------ a changed source


def change_picture(copy: Path, number: int) -> None:
    """Other bytes of the same length."""
    (path,) = (copy / "source").glob(f"*{number // 5}.tar")
    data = bytearray(path.read_bytes())
    place = data.index(encoded(picture(number)))
    other = encoded(picture(number + 100))
    size = len(encoded(picture(number)))
    data[place : place + size] = other[:size].ljust(size, b"\0")
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("column", "replay"), [("views", 64), ("image-a", 64), ("index", 0), ("image-a", 0)]
)
def test_a_changed_source_is_refused_and_nothing_replaced(copy, column, replay):
    flip(unit_files(copy, column, 2)[1])
    change_picture(copy, 12)
    before = state(copy / "store")
    with pytest.raises(ValueError, match=r"00002\.tar") as error:
        mend(copy, replay=replay)
    assert "Put the old shard back" in str(error.value) or "has changed since" in str(error.value)
    assert state(copy / "store") == before


def test_a_changed_source_matters_to_its_own_shard_alone(made, calm, copy):
    change_picture(copy, 12)
    flip(unit_files(copy, "image-a", 1)[1])
    flip(unit_files(copy, "text-a", 2)[1])  # the store has its texts
    report = mend(copy)
    assert len(report.redone) == 2 and report.left == ()
    assert [finding.kind for finding in report.audit.findings] == ["changed-images"]
    assert contents(copy / "store") == calm


def test_a_missing_source_shard_is_named(copy):
    (copy / "source" / "00001.tar").unlink()
    flip(unit_files(copy, "captions-original", 1)[1])
    with pytest.raises(ValueError, match=r"captions-original.*00001.tar, cannot be reached"):
        mend(copy)


# --------------------------------------------------------------------------- killed and stopped


def repair_and_die(folder: str, name: str, event: int) -> None:
    """Killed at the given call of a function of `os`."""
    torch.set_num_threads(1)
    members, seen, original = teachers(), 0, getattr(os, name)

    def call(*arguments, **named):
        nonlocal seen
        seen += 1
        if seen == event:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments, **named)

    setattr(os, name, call)
    mend(Path(folder), members)


@pytest.mark.parametrize("name", ["replace", pytest.param("fsync", marks=pytest.mark.slow)])
def test_killed_at_any_write_the_same_command_goes_on(made, calm, copy, name):
    for column, shard in (("image-a", 1), ("views", 1), ("index", 2)):
        flip(unit_files(copy, column, shard)[1])
    unit_files(copy, "text-b", 3)[0].write_text("{")
    for event in (1, 2, 3):
        code = in_a_process(repair_and_die, str(copy), name, event)
        assert code in (0, -signal.SIGKILL)
        # Whatever it is, what can be read is right: no unit is gone, none is half done.
        found = audit(copy / "store", progress=False)
        assert {finding.kind for finding in found.findings} <= {"damaged-file", "damaged-record"}
    mend(copy)
    assert_calm(copy, made, calm)


def test_told_to_stop_it_says_how_to_go_on(made, calm, copy, monkeypatch):
    for shard in range(4):
        flip(unit_files(copy, "image-a", shard)[1])
    writes = 0
    original = Storage.write

    def told(self: Storage, path: str, data: bytes) -> None:
        nonlocal writes
        original(self, path, data)
        writes += 1
        if writes == 2:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Storage, "write", told)
    with pytest.raises(Interrupted, match=r"SIGINT; what is repaired is whole, and the same"):
        mend(copy)
    found = audit(copy / "store", progress=False)
    assert [finding.shards for finding in found.findings] == [(2,), (3,)]
    assert [unit[1] for unit in mend(copy).redone] == [2, 3]
    assert_calm(copy, made, calm)


# ------------------------------------------------------------------------------- the command line


def test_the_command(copy, capsys):
    flip(unit_files(copy, "captions-original", 0)[1])
    flip(unit_files(copy, "image-a", 0)[1])
    assert main(["audit", str(copy / "store"), "--repair", "--json"]) == 3
    values = json.loads(capsys.readouterr().out)
    assert [unit["why"] for unit in values["redone"]] == ["damaged-file"]
    assert "needs its teacher a" in values["left"][0] and not values["ok"]
    assert [finding["kind"] for finding in values["findings"]] == ["damaged-file"]
    flip(unit_files(copy, "views", 3)[1])
    assert main(["audit", str(copy / "store"), "--repair"]) == 3
    said = capsys.readouterr().out
    assert "repaired: views-" in said and "left: column image-a-" in said


def test_a_broken_list_of_sources_is_not_repaired(copy, capsys):
    (copy / "store" / "sources.json").write_text("{")
    assert main(["audit", str(copy / "store"), "--repair"]) == 2
    assert "Restore the file" in capsys.readouterr().err
