"""Writers of a store are killed, paused and run twice at once; the store is that of a calm run."""

import json
import os
import random
import signal
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from distill.testing import end, signal_at, start
from reinforced_data import ViewPolicy, audit, open_dataset, reinforce
from reinforced_data.shard_walk import ShardWalk
from reinforced_data.store.storage import Storage
from reinforced_data.testing import tiny_teacher, write_source

SHARDS, COLUMNS = 9, 7
SETTINGS = {"num_views": 2, "policy": ViewPolicy(num_ops=1), "batch_size": 4, "progress": False}


def teachers() -> list:
    return [tiny_teacher("a", seed=1), tiny_teacher("b", seed=2, embed_dim=12)]


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("source")
    assert len(write_source(folder, 26, samples_per_shard=3)) == SHARDS
    return str(folder)


@pytest.fixture(scope="module")
def calm(source, tmp_path_factory) -> dict[str, tuple]:
    out = tmp_path_factory.mktemp("calm") / "store"
    reinforce(source, out, teachers=teachers(), **SETTINGS)
    return contents(out)


def contents(out: Path) -> dict[str, tuple]:
    """What two equal stores share: data hashes, rows, skip reasons; not attempts and times."""
    found = {}
    for path in sorted((out / "commits").rglob("*.json")):
        commit = json.loads(path.read_text())
        name = f"{commit['column']}/{commit['shard']}"
        found[name] = (commit["sha256"], commit["rows"], str(commit["skipped"]))
    return found


def assert_calm(out: Path, calm: dict[str, tuple]) -> None:
    """Equal to the undisturbed store, whole, and without a file too many."""
    assert contents(out) == calm
    assert audit(out, teachers=teachers()).problems == ()
    files = files_of(out)
    assert len(files) == 2 * SHARDS * COLUMNS + COLUMNS + 1, files


def files_of(out: Path) -> dict[Path, bytes]:
    """All files but the records of who is at work."""
    paths = [p for p in out.rglob("*") if p.is_file() and p.parent.name != "attempts"]
    return {path: path.read_bytes() for path in paths}


# ------------------------------------------------------------------------------- processes


def run(*arguments: object) -> int:
    return end(start(write, *arguments))


def write(
    source: str, out: str, log: str, signum: int = 0, event: int = 0, slow: float = 0
) -> None:
    """Reinforce, and send this process `signum` at the given system call."""
    torch.set_num_threads(1)
    _log_attempts(log, slow)
    members = teachers()
    if signum:
        signal_at(signum, event, before=_halve if signum == signal.SIGKILL else None)
    # These are killed from outside, not by what they read: nothing stays in quarantine.
    reinforce(source, out, teachers=members, retry_quarantined=True, **SETTINGS)


def _log_attempts(log: str, slow: float) -> None:
    original = Storage.write

    def logged(self: Storage, path: str, data: bytes) -> None:
        if path.startswith("data/"):
            with open(log, "a") as file:
                file.write(f"{os.getpid()} {path}\n")
            time.sleep(slow)
        original(self, path, data)

    Storage.write = logged


def _halve(name: str, arguments: tuple[Any, ...]) -> None:
    """Let a part of the file that is synced never have reached the disk."""
    if name != "fsync" or not os.fstat(arguments[0]).st_size:
        return
    try:
        os.ftruncate(arguments[0], os.fstat(arguments[0]).st_size // 2)
    except OSError:
        assert os.path.isdir(f"/proc/self/fd/{arguments[0]}"), "only a folder cannot be cut"


def redone(log: Path) -> int:
    """How often a process began a shard of which another had written a part."""
    workers = defaultdict(set)
    for line in log.read_text().splitlines():
        worker, path = line.split(" ", 1)
        workers[Path(path).name.split(".")[0]].add(worker)
    return sum(len(seen) - 1 for seen in workers.values())


# ------------------------------------------------------------------------------- tests


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_five_kills_change_nothing_and_cost_a_shard_each(source, calm, tmp_path, seed):
    out, log = tmp_path / "store", tmp_path / "log"
    chance = random.Random(seed)
    for _ in range(5):
        # A shard of seven columns is 49 such calls.
        code = run(source, str(out), str(log), signal.SIGKILL, chance.randint(1, 75))
        assert code == -signal.SIGKILL
    assert run(source, str(out), str(log)) == 0
    assert_calm(out, calm)
    assert redone(log) <= 5


def test_what_the_killed_leave_is_never_seen_and_goes_with_the_next_run(source, calm, tmp_path):
    out, log = tmp_path / "store", tmp_path / "log"
    kinds = set()
    # sources.json and two columns; then each moment of a unit, from its temporary file on.
    for event in (1, 2, 9, 25, 1, 2, 3, 4, 5, 6, 13):
        assert run(source, str(out), str(log), signal.SIGKILL, event) == -signal.SIGKILL
        kinds |= {(p.parent.parent.name, p.suffix) for p in out.rglob("*") if p.is_file()}
    assert {("data", ".tmp"), ("commits", ".tmp"), ("data", ".arrow")} <= kinds
    assert contents(out).items() <= calm.items()
    assert run(source, str(out), str(log)) == 0
    assert_calm(out, calm)


def test_two_launchers_at_once_with_kills(source, calm, tmp_path):
    out, log = tmp_path / "store", tmp_path / "log"
    chance = random.Random(3)
    for _ in range(3):
        killed = [(signal.SIGKILL, chance.randint(10, 90)) for _ in range(2)]
        both = [start(write, source, str(out), str(log), *how) for how in killed]
        assert [end(process) for process in both] == [-signal.SIGKILL] * 2
    both = [start(write, source, str(out), str(log)) for _ in range(2)]
    assert [end(process) for process in both] == [0, 0]
    assert_calm(out, calm)


@pytest.mark.parametrize(
    "event", [2, *(pytest.param(n, marks=pytest.mark.slow) for n in (25, 26, 28)), 29]
)
def test_a_paused_writer_that_wakes_after_another_has_finished(source, calm, tmp_path, event):
    """It sleeps with a temporary file, an attempt or a record at hand; each comes too late."""
    out, log = tmp_path / "store", tmp_path / "log"
    asleep = start(write, source, str(out), str(log), signal.SIGSTOP, event)
    wait_until(lambda: Path(f"/proc/{asleep.pid}/stat").read_text().split(") ")[1][0] == "T")
    assert asleep.pid is not None and asleep.exitcode is None
    assert contents(out).items() < calm.items()
    assert run(source, str(out), str(log)) == 0
    assert_calm(out, calm)
    before = files_of(out)
    os.kill(asleep.pid, signal.SIGCONT)
    assert end(asleep) == 0
    assert files_of(out) == before and not (out / "attempts").exists()
    assert open_dataset(out).num_samples == 26


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.parametrize("walkers", [2, 3, 8])
def test_launchers_that_begin_together_soon_work_apart(walkers):
    """In step, which is the worst case: all take a shard, then all are done with it."""
    done, work = set(), 0
    walks = [ShardWalk(1000, (), seed) for seed in range(walkers)]
    takers = [iter(walk) for walk in walks]
    while len(done) < 1000:
        taken = []
        for walk, taker in zip(walks, takers, strict=True):
            shard = next(taker)
            while shard in done:  # costs a look at the commits, no work
                walk.met_another()
                shard = next(taker)
            taken.append(shard)
        work += len(taken)
        for walk, shard in zip(walks, taken, strict=True):
            if shard in done:
                walk.met_another()
            done.add(shard)
    assert work <= 1000 + 4 * walkers


@pytest.mark.slow
def test_fifty_kills_over_two_workers(source, calm, tmp_path):
    """At random moments of the clock, each victim replaced at once, until fifty have died."""
    chance = random.Random(50)
    kills, stores, again, waste = 0, 0, 0, []
    while kills < 50:
        out, log = tmp_path / f"store-{stores}", tmp_path / f"log-{stores}"
        killed = 0
        workers = [start(write, source, str(out), str(log), 0, 0, 0.02) for _ in range(2)]
        while any(worker.exitcode is None for worker in workers):
            time.sleep(chance.uniform(0.02, 0.5))
            victim = chance.randrange(2)
            if workers[victim].exitcode is None and kills < 50:
                workers[victim].kill()
                if end(workers[victim]) != 0:  # it may have finished in between
                    killed += 1
                    kills += 1
                    workers[victim] = start(write, source, str(out), str(log), 0, 0, 0.02)
        assert [end(worker) for worker in workers] == [0, 0]
        assert_calm(out, calm)
        stores += 1
        again += redone(log)
        waste.append((killed, redone(log)))
    assert again <= kills, waste
    print(f"{kills} kills over {stores} stores, {again} shards begun again: {waste}")
