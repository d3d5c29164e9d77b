"""`pack` is killed, told to stop, run twice at once: the shards are those of a calm run."""

import hashlib
import json
import os
import signal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distill.testing import end, signal_at, start
from reinforced_data.packing.packing import pack
from reinforced_data.source import image_size
from reinforced_data.stop_signals import Interrupted
from reinforced_data.testing import encoded, picture

SETTINGS: dict[str, Any] = {"samples_per_shard": 4, "resize": "longer:16", "progress": False}
ROWS, SHARDS = 17, 3


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Path:
    """17 pictures: one is broken, three are copies, one has no caption; the rest makes 3 shards."""
    pictures = [encoded(picture(i % 14), "jpg") for i in range(ROWS)]
    pictures[7] = b"broken"
    texts = [f"picture {i}" if i != 11 else "" for i in range(ROWS)]
    path = tmp_path_factory.mktemp("table") / "t.parquet"
    pq.write_table(pa.table({"jpg": pictures, "caption": texts}), path, row_group_size=5)
    return path


@pytest.fixture(scope="module", params=[pytest.param("drop", marks=pytest.mark.slow), "merge"])
def calm(table, request, tmp_path_factory) -> tuple[str, dict[str, str]]:
    out = tmp_path_factory.mktemp("calm") / "out"
    report = pack(table, out, deduplicate=request.param, **SETTINGS)
    assert (report.rows, report.samples, report.copies, report.shards) == (ROWS, 12, 3, SHARDS)
    return request.param, hashes(out)


def hashes(out: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in out.iterdir()}


def write(table: str, out: str, deduplicate: Any, signum: int, event: int, times: int = 1) -> None:
    """Pack, and send this process `signum` at the given system call of its writing."""
    signal_at(signum, event, ("fsync", "replace", "rename"), times=times)
    try:
        pack(table, out, deduplicate=deduplicate, **SETTINGS)
    except Interrupted as told:
        os._exit(told.exit_code)
    os._exit(0)


def test_killed_at_any_system_call_it_goes_on_to_the_same_bytes(table, calm, tmp_path):
    deduplicate, expected = calm
    # fsync and replace: of the settings, of each tar and its record, of pack.json; then rename.
    calls = 2 * (1 + 2 * SHARDS + 1 + (deduplicate == "merge")) + 1
    for event in range(1, calls + 1):
        out = tmp_path / f"out{event}"
        arguments = (str(table), str(out), deduplicate, signal.SIGKILL)
        assert end(start(write, *arguments, event)) == -signal.SIGKILL, event
        assert not out.exists(), "nothing half done has the name"
        pack(table, out, deduplicate=deduplicate, **SETTINGS)
        assert hashes(out) == expected, event
    assert {path.name for path in tmp_path.iterdir()} == {f"out{e}" for e in range(1, calls + 1)}
    assert end(start(write, str(table), str(tmp_path / "x"), deduplicate, 9, calls + 1)) == 0


def test_finished_shards_are_not_written_again(table, tmp_path):
    arguments = (str(table), str(tmp_path / "out"), "drop", signal.SIGKILL)
    assert end(start(write, *arguments, 10)) == -signal.SIGKILL
    shards = tmp_path / ".out.partial/shards"
    before = {path.name: path.stat().st_mtime_ns for path in shards.glob("[0-9]*.tar")}
    assert len(before) >= 2
    pack(table, tmp_path / "out", deduplicate="drop", **SETTINGS)
    after = {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in before}
    done = sorted(before)[:-1]  # of the last one the record may be missing
    assert [after[name] for name in done] == [before[name] for name in done]


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_told_to_stop_it_ends_in_order_and_goes_on(table, calm, tmp_path, signum):
    deduplicate, expected = calm
    arguments = (str(table), str(tmp_path / "out"), deduplicate, signum)
    assert end(start(write, *arguments, 8)) == 128 + signum
    assert not (tmp_path / "out").exists()
    pack(table, tmp_path / "out", deduplicate=deduplicate, **SETTINGS)
    assert hashes(tmp_path / "out") == expected


def test_stopped_before_its_first_shard_it_leaves_nothing(table, tmp_path, monkeypatch):
    once = iter([signal.SIGTERM])

    def told(data: bytes, **limits: int) -> tuple[int, int]:
        for signum in once:
            os.kill(os.getpid(), signum)
        return image_size(data, **limits)

    monkeypatch.setattr("reinforced_data.packing.resizing.image_size", told)
    with pytest.raises(Interrupted, match=r"SIGTERM with 0 shards of .*out finished; the same"):
        pack(table, tmp_path / "out", **SETTINGS)
    assert not list(tmp_path.iterdir())


def stopped(table: Path, out: Path) -> None:
    arguments = (str(table), str(out), "none", signal.SIGTERM)
    assert end(start(write, *arguments, 8)) == 128 + signal.SIGTERM


def test_another_pack_does_not_go_on_where_this_one_stopped(table, tmp_path):
    stopped(table, tmp_path / "out")
    with pytest.raises(ValueError, match=r"begun differently: quality was 95, now 80. Give the sa"):
        pack(table, tmp_path / "out", quality=80, **SETTINGS)
    os.utime(table)
    with pytest.raises(ValueError, match=r"begun differently: files was"):
        pack(table, tmp_path / "out", **SETTINGS)


def test_two_at_once_do_not_meet(table, tmp_path):
    stopped(table, tmp_path / "out")
    import fcntl

    handle = os.open(tmp_path / ".out.partial", os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    with pytest.raises(ValueError, match="another process is packing into"):
        pack(table, tmp_path / "out", **SETTINGS)
    os.close(handle)
    assert pack(table, tmp_path / "out", **SETTINGS).shards == 4


def test_a_record_that_was_cut_is_no_record(table, tmp_path):
    stopped(table, tmp_path / "out")
    settings = tmp_path / ".out.partial/settings.json"
    settings.write_text(settings.read_text()[:20])
    pack(table, tmp_path / "out", **SETTINGS)
    pack(table, tmp_path / "calm", **SETTINGS)
    assert hashes(tmp_path / "out") == hashes(tmp_path / "calm")
    assert json.loads((tmp_path / "out/pack.json").read_text())["rows"] == ROWS
