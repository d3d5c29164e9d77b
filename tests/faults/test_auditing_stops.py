"""`audit` is killed and told to stop: the next one reads what is left, and finds the same.

What is read is what the system says was opened (inotify), in this process or another.
"""

import contextlib
import ctypes
import json
import os
import shutil
import signal
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from distill.cli import main
from distill.testing import end, in_a_process, start
from reinforced_data import ViewPolicy, audit, reinforce, repair
from reinforced_data.auditing.columns import read_columns
from reinforced_data.auditing.progress_file import ProgressFile, usual_progress_file
from reinforced_data.auditing.shard_check import ShardFindings
from reinforced_data.store.layout import open_store
from reinforced_data.store.storage import Storage
from reinforced_data.testing import tiny_teacher, write_source

# As many as eight threads are somewhere in the middle when the signal comes.
SHARDS, COLUMNS, DAMAGED, EVENT = 28, 5, (1, 20), 70
_IN_OPEN, _IN_ISDIR = 0x20, 0x40000000


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A source, and a store in which a file of two shards is damaged."""
    folder = tmp_path_factory.mktemp("made")
    write_source(folder / "source", SHARDS, samples_per_shard=1)
    reinforce(
        folder / "source", folder / "store", teachers=tiny_teacher(), num_views=2,
        policy=ViewPolicy(num_ops=1), progress=False,
    )  # fmt: skip
    for shard in DAMAGED:
        flip(data_files(folder / "store", shard)[2])
    return folder


@pytest.fixture
def place(made, tmp_path) -> Path:
    """A copy that a test may change; times and all."""
    shutil.copytree(made, tmp_path / "copy")
    return tmp_path / "copy"


def data_files(store: Path, shard: int) -> list[Path]:
    return sorted((store / "data").glob(f"*/{shard:05d}.*"))


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@contextlib.contextmanager
def opened_files(store: Path) -> Iterator[set[int]]:
    """Collect the shards of which data files are opened inside the block."""
    libc = ctypes.CDLL(None, use_errno=True)
    watch = libc.inotify_init1(os.O_NONBLOCK)
    assert watch >= 0
    for folder in (store / "data").iterdir():
        assert libc.inotify_add_watch(watch, str(folder).encode(), _IN_OPEN) >= 0
    seen, files = set[int](), dict[tuple[int, str], int]()
    try:
        yield seen
        with contextlib.suppress(BlockingIOError):
            while events := os.read(watch, 1 << 20):
                while events:
                    where, mask, _, length = struct.unpack_from("iIII", events)
                    name = events[16 : 16 + length].rstrip(b"\0").decode()
                    events = events[16 + length :]
                    if not mask & _IN_ISDIR:
                        files[where, name] = int(name[:5])
    finally:
        os.close(watch)
    seen.update(files.values())


def run(store: str, kept: str, out: str, signum: int = 0, event: int = 0) -> None:
    """Audit in a process of its own, which gets a signal as it reads its `event`-th data file."""
    torch.set_num_threads(1)
    original, lock, seen = Storage.hashed_buffer, threading.Lock(), [0]

    def hashed_buffer(self: Storage, path: str):
        with lock:
            seen[0] += 1
            if seen[0] == event:
                os.kill(os.getpid(), signum)
        return original(self, path)

    Storage.hashed_buffer = hashed_buffer
    with open(out, "w") as stdout, contextlib.redirect_stdout(stdout):
        code = main(["audit", store, "--json", "--replay", "0", "--progress-file", kept])
    os._exit(code)


def kept_shards(kept: Path) -> set[int]:
    return {json.loads(line)["shard"] for line in kept.read_text().splitlines()[1:] if line}


def equal(report, calm) -> None:
    assert report.findings == calm.findings and len(calm.findings) == len(DAMAGED)
    assert (report.counts, report.columns) == (calm.counts, calm.columns)


SIGNALS = {signal.SIGKILL: -9, signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGUSR1: 138}


@pytest.mark.parametrize("signum", SIGNALS)
def test_the_next_audit_reads_what_is_left_and_finds_the_same(place, tmp_path, signum):
    store, kept = place / "store", tmp_path / "kept"
    calm = audit(store, replay=0, progress=False)
    arguments = (str(store), str(kept), str(tmp_path / "out"), signum, EVENT)
    with opened_files(store) as first:
        assert end(start(run, *arguments)) == SIGNALS[signum]
    before = kept_shards(kept)
    assert before and before < first < set(range(SHARDS)) and not before & set(DAMAGED)
    if signum != signal.SIGKILL:
        said = json.loads((tmp_path / "out").read_text())["error"]
        assert said.startswith(f"stopped by {signal.Signals(signum).name}; nothing was changed; ")
        assert f"{len(before)} of {SHARDS} shards are read, and the same command goes on" in said
    with opened_files(store) as second:
        report = audit(store, replay=0, progress=False, progress_file=kept)
    assert second == set(range(SHARDS)) - before
    equal(report, calm)
    assert any(note.startswith(f"{len(before)} of {SHARDS} shards") for note in report.notes)
    assert not kept.exists()
    with opened_files(store) as third:
        again = audit(store, replay=0, progress=False, progress_file=kept)
    assert third == set(range(SHARDS)) and again == calm


def test_what_has_changed_in_between_is_read_again(place, tmp_path):
    """A flipped byte in a file, a record taken away, and a line that was cut by a kill."""
    store, kept = place / "store", tmp_path / "kept"
    arguments = (str(store), str(kept), str(tmp_path / "out"), signal.SIGKILL, EVENT)
    assert end(start(run, *arguments)) == -signal.SIGKILL
    edited, without, cut = sorted(kept_shards(kept))[:3]
    flip(data_files(store, edited)[0])
    next((store / "commits").glob(f"text*/{without:05d}.json")).unlink()
    lines = [line for line in kept.read_text().splitlines() if line]
    cut_line = next(line for line in lines if f'"shard": {cut},' in line)
    lines.remove(cut_line)
    kept.write_text("\n".join([*lines, cut_line[:40]]))
    before = {json.loads(line)["shard"] for line in lines[1:]} - {edited, without}
    calm = audit(store, replay=0, progress=False)
    kinds = sorted(finding.kind for finding in calm.findings)
    assert kinds == ["damaged-file"] * 3 + ["missing-shards"]
    kept_for_later = tmp_path / "later"
    shutil.copy(kept, kept_for_later)
    report = audit(store, replay=0, progress=False, progress_file=kept)
    assert (report.findings, report.counts) == (calm.findings, calm.counts)
    assert report.notes[0].startswith(f"{len(before)} of {SHARDS} shards")
    # Another column's file, or another list of sources, makes all of them others.
    columns = sorted((store / "columns").iterdir())
    os.utime(columns[0], ns=(1, 1))
    assert audit(store, replay=0, progress=False, progress_file=kept_for_later).notes == ()


def test_a_repair_reads_again_only_what_it_has_written(place, tmp_path):
    store, kept = place / "store", tmp_path / "kept"
    reads = tmp_path / "reads"
    assert in_a_process(count_reads, str(store), str(kept), str(reads)) == 0
    assert int(reads.read_text()) == (SHARDS + len(DAMAGED)) * COLUMNS
    assert not kept.exists() and audit(store, progress=False).ok


def count_reads(store: str, kept: str, reads: str) -> None:
    """Repair, and write down how many data files were hashed."""
    torch.set_num_threads(1)
    original, lock, seen = Storage.hashed_buffer, threading.Lock(), [0]

    def hashed_buffer(self: Storage, path: str):
        with lock:
            seen[0] += 1
        return original(self, path)

    Storage.hashed_buffer = hashed_buffer
    report = repair(store, teachers=tiny_teacher(), progress=False, progress_file=kept)
    assert len(report.redone) == len(DAMAGED) and report.left == ()
    Path(reads).write_text(str(seen[0]))


def test_a_file_that_is_not_this_audits_is_left_alone(made, place, tmp_path):
    mine = tmp_path / "notes.txt"
    mine.write_text("milk\nbread\n")
    with pytest.raises(ValueError, match=r"notes.txt is not an audit's progress.*--progress-file"):
        audit(made / "store", progress=False, progress_file=mine)
    assert mine.read_text() == "milk\nbread\n"
    shutil.copytree(place / "store", tmp_path / "unreadable")
    (tmp_path / "unreadable/sources.json").write_text("{broken")
    assert not audit(tmp_path / "unreadable", progress=False, progress_file=mine).ok
    assert mine.read_text() == "milk\nbread\n"
    arguments = (str(place / "store"), str(tmp_path / "kept"), str(tmp_path / "out"), 9, EVENT)
    assert end(start(run, *arguments)) == -signal.SIGKILL
    with pytest.raises(ValueError, match=f"the progress of an audit of {place}/store"):
        audit(made / "store", progress=False, progress_file=tmp_path / "kept")


def test_what_is_old_or_of_another_format_is_read_again(place, tmp_path):
    store, kept = place / "store", tmp_path / "kept"
    arguments = (str(store), str(kept), str(tmp_path / "out"), signal.SIGKILL, EVENT)
    assert end(start(run, *arguments)) == -signal.SIGKILL
    head, *lines = [json.loads(line) for line in kept.read_text().splitlines() if line]
    week_ago = [{**line, "at": time.time() - 7.01 * 24 * 3600} for line in lines]
    for written in ([head, *week_ago], [head | {"format": 0}, *lines], [head, {"shard": 0}]):
        kept.write_text("".join(json.dumps(line) + "\n" for line in written))
        with opened_files(store) as seen:
            report = audit(store, replay=0, progress=False, progress_file=kept)
        assert seen == set(range(SHARDS)) and report.notes == () and not kept.exists()


def test_of_two_audits_at_once_one_keeps_the_file(made, tmp_path):
    store, kept = open_store(made / "store"), tmp_path / "kept"
    columns, _ = read_columns(store)
    first = ProgressFile(kept)
    first.begin(store, columns)
    report = audit(made / "store", replay=0, progress=False, progress_file=kept)
    assert "another audit keeps" in report.notes[0] and kept.exists()
    first.finished()
    assert not kept.exists()


def test_a_record_that_cannot_be_read_is_a_finding(place):
    record = next((place / "store/commits").glob("text*/00003.json"))
    record.unlink()
    record.mkdir()
    (finding,) = [f for f in audit(place / "store", progress=False).findings if 3 in f.shards]
    assert finding.kind == "damaged-record" and "00003.json cannot be read" in finding.text


def test_an_audit_does_not_fail_for_its_progress_file(made, tmp_path):
    (tmp_path / "file").write_text("")
    calm = audit(made / "store", replay=0, progress=False)
    report = audit(made / "store", replay=0, progress=False, progress_file=tmp_path / "file/kept")
    equal(report, calm)
    assert "would have begun again" in report.notes[0] and "file" in report.notes[0]


def test_a_progress_file_that_cannot_grow_is_not_left_behind(made, tmp_path):
    """Else the next audit would believe, for a week, the shards that are in it."""
    store, kept = open_store(made / "store"), tmp_path / "kept"
    progress = ProgressFile(kept)
    progress.begin(store, read_columns(store)[0])
    progress.add(ShardFindings(shard=0))
    assert kept_shards(kept) == {0}
    os.truncate(kept, 0)
    # Every write to this device says that it is full.
    os.dup2(os.open("/dev/full", os.O_WRONLY), progress._file.fileno())
    progress.add(ShardFindings(shard=1))
    assert "No space left" in progress.note() and not kept.exists()
    progress.finished()


def test_the_usual_file_is_in_the_cache_and_each_store_has_its_own(made, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    here, there = usual_progress_file(made / "store"), usual_progress_file("memory://store")
    assert here != there and {here.parent, there.parent} == {tmp_path / "clip-distill/audits"}
    assert ProgressFile(here).path == here
    before = sorted(path for path in (made / "store").rglob("*"))
    assert main(["audit", str(made / "store"), "--json", "--replay", "0"]) == 3
    assert sorted(path for path in (made / "store").rglob("*")) == before
    assert list(here.parent.iterdir()) == []
