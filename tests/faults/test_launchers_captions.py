"""`distill caption` by launchers: what `distill reinforce` has, and counts that come back."""

import importlib.util
import itertools
import json
import os
import shutil
import signal
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import pytest

from distill.cli import main
from distill.testing import start, workers_of
from reinforced_data import audit, caption, reinforce
from reinforced_data.testing import contents, pids_at, wait_until, write_source
from students import load_student
from teachers import RuleCaptioner, load_teacher

SET = {"name": "rules", "num_captions": 2, "batch_size": 1}
needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="Ray is in the extra: clip-distill[cluster]"
)


class World:
    """Stores to be captioned, beside their source; `calm` is what each has to equal in the end."""

    def __init__(self, world) -> None:
        self.teacher, self.number = world.teacher, itertools.count()
        self.folder = Path(world.source).parent
        self.before = world.calm
        out = self.store()
        teacher = load_teacher(load_student(self.teacher), precision="fp32")
        self.report = caption(out, RuleCaptioner(), teachers=teacher, progress=False, **SET)
        self.calm = contents(out)

    def store(self) -> Path:
        """A store that waits for captions; its source's path is relative to it."""
        out = self.folder / f"captions-{next(self.number)}"
        return shutil.copytree(self.folder / "calm", out)

    def command(self, out: Path, *more: str) -> list[str]:
        words = ["caption", str(out), "--name", "rules", "--captioner", "rules"]
        words += ["--num-captions", "2", "--batch-size", "1", "--teachers", self.teacher]
        return [*words, "--json", *more]


@pytest.fixture(scope="module")
def world(damaged_world) -> World:
    return World(damaged_world)


def run(arguments: list[str], said: Path) -> None:
    os.setpgrp()  # as a shell starts it
    os.environ.pop("RAY_ADDRESS", None)
    sys.stdout, sys.stderr = said.open("w"), said.with_suffix(".err").open("w")
    code = main(arguments)
    sys.stdout.close()
    sys.exit(code)


def under_way(world: World, out: Path, process) -> int:
    """Wait until captions are written and somebody is at a shard; return who."""
    some, found = len(world.before) + 2, []

    def look() -> bool:
        found[:] = [pid for pids in pids_at(out).values() for pid in pids]
        return bool(found) and len(contents(out)) > some

    wait_until(lambda: look() or not process.is_alive())
    return found[0]


def kill_one_and_finish(world: World, out: Path, said: Path, *more: str) -> None:
    launcher = start(run, world.command(out, *more), said)
    os.kill(under_way(world, out, launcher), signal.SIGKILL)
    launcher.join(900)
    assert launcher.exitcode == 0, said.with_suffix(".err").read_text()
    report = json.loads(said.read_text())
    assert contents(out) == world.calm and report["waiting"] == 0
    assert not pids_at(out), "the shard of the killed was redone, and its record is gone"
    # What the killed had counted at its last shard went with it: 16 samples.
    assert world.report.written - 32 <= report["written"] <= world.report.written + 32
    assert report["written"] > 32


def test_a_killed_process_is_replaced_and_the_captions_are_those_of_one(world, tmp_path):
    more = ("--launcher", "processes", "--workers", "1")
    kill_one_and_finish(world, world.store(), tmp_path / "said.json", *more)


@pytest.mark.slow
def test_two_launchers_at_once_write_the_captions_of_one(world, tmp_path):
    out, said = world.store(), [tmp_path / "one.json", tmp_path / "two.json"]
    command = world.command(out, "--launcher", "processes", "--workers", "1")
    both = [start(run, command, name) for name in said]
    for launcher, name in zip(both, said, strict=True):
        launcher.join(900)
        assert launcher.exitcode == 0, name.with_suffix(".err").read_text()
    assert contents(out) == world.calm and not pids_at(out)
    written = [json.loads(name.read_text())["written"] for name in said]
    assert sum(written) >= world.report.written


class Busy(BaseHTTPRequestHandler):
    """A captioner's server that answers 503 to the first two requests."""

    asked = itertools.count()

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        said = {"choices": [{"message": {"content": "A red bus."}, "finish_reason": "stop"}]}
        body = json.dumps(said).encode()
        self.send_response(503 if next(self.asked) < 2 else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        """Quiet."""


def test_what_workers_count_comes_back_and_shards_that_wait_are_told_of(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    sources = write_source(tmp_path / "source", 6, samples_per_shard=2)
    Path(sources[1]).write_bytes(b"<html>")
    reinforce(sources, tmp_path / "out", teachers=(), num_views=1, progress=False)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Busy)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    command = ["caption", str(tmp_path / "out"), "--name", "bus", "--num-captions", "2"]
    command += ["--captioner", f"endpoint:http://127.0.0.1:{server.server_port}#m", "--json"]
    code = main([*command, "--launcher", "processes", "--workers", "1"])
    server.shutdown()
    server.server_close()
    report = json.loads(capsys.readouterr().out)
    assert code == 3 and (report["shards"], report["waiting"]) == (2, 1), report
    assert (report["written"], report["dropped"]) == (4, {"duplicate": 4})
    ((reason, times),) = report["retries"].items()
    assert "503" in reason and times == 2


@pytest.mark.slow
def test_a_killed_launcher_leaves_nobody_and_the_same_captions_go_on(world, tmp_path):
    out, said = world.store(), tmp_path / "said.json"
    command = world.command(out, "--launcher", "processes", "--workers", "2")
    launcher = start(run, command, said)
    under_way(world, out, launcher)
    everybody = psutil.Process(launcher.pid).children(recursive=True)
    assert len(workers_of(launcher)) == 2
    launcher.kill()
    launcher.join()
    assert psutil.wait_procs(everybody, timeout=300)[1] == []
    assert not pids_at(out), "they ended in order"
    assert contents(out).items() <= world.calm.items()
    again = start(run, command, said)
    again.join(900)
    assert again.exitcode == 0, said.with_suffix(".err").read_text()
    assert contents(out) == world.calm and audit(out).problems == ()


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_ends_captions_after_their_batch(world, tmp_path, signum):
    out, said = world.store(), tmp_path / "said.json"
    command = world.command(out, "--launcher", "processes", "--workers", "1")
    launcher = start(run, command, said)
    under_way(world, out, launcher)
    os.kill(launcher.pid, signum)
    launcher.join(900)
    assert launcher.exitcode == 128 + signum, said.with_suffix(".err").read_text()
    assert "of the caption set 'rules' done in" in said.read_text()
    assert not pids_at(out), "nobody is taken for dead"
    assert contents(out).items() <= world.calm.items()


@pytest.mark.slow
def test_a_shard_at_which_captioners_die_is_quarantined_within_one_command(
    world, tmp_path, killer_of
):
    out, said = world.store(), tmp_path / "said.json"
    more = ("--launcher", "processes", "--workers", "2")
    with killer_of(out, shard=3) as killer:
        launcher = start(run, world.command(out, *more), said)
        launcher.join(900)
    assert launcher.exitcode == 3, said.with_suffix(".err").read_text()
    report = json.loads(said.read_text())
    assert len(report["quarantined"]) == 1 and len(killer.killed) == 3
    assert (report["shards"], report["waiting"]) == (7, 0)
    again = start(run, world.command(out, *more, "--retry-quarantined"), said)
    again.join(900)
    assert again.exitcode == 0 and contents(out) == world.calm


@needs_ray
@pytest.mark.slow
def test_a_killed_ray_worker_is_replaced_and_the_captions_are_those_of_one(world, tmp_path):
    more = ("--launcher", "ray", "--workers", "1")
    kill_one_and_finish(world, world.store(), tmp_path / "said.json", *more)
