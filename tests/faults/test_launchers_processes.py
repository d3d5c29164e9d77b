"""`--launcher processes`: a process that dies is replaced; the launcher takes all along."""

import json
import os
import signal
import sys
from pathlib import Path

import psutil
import pytest

from distill.cli import main
from distill.launching import Reinforcement, launch
from distill.launching.processes import _usual_workers
from distill.testing import start, workers_of
from reinforced_data import audit
from reinforced_data.testing import contents, pids_at, wait_until, write_source

MORE = ("--launcher", "processes", "--json")


def run(arguments: list[str], said: Path) -> None:
    os.setpgrp()  # as a shell starts it
    sys.stdout, sys.stderr = said.open("w"), said.with_suffix(".err").open("w")
    code = main(arguments)
    sys.stdout.close()
    sys.exit(code)


def test_a_killed_process_is_replaced_and_the_store_is_that_of_one(damaged_world, tmp_path):
    out, said = tmp_path / "out", tmp_path / "said.json"
    launcher = start(run, damaged_world.command(out, *MORE, "--workers", "1"), said)
    wait_until(lambda: pids_at(out) or not launcher.is_alive())
    (killed,) = {pid for pids in pids_at(out).values() for pid in pids}
    os.kill(killed, signal.SIGKILL)
    launcher.join(900)
    assert launcher.exitcode == 3, said.with_suffix(".err").read_text()
    report = json.loads(said.read_text())
    assert report["skipped"] == {"not-an-image": 1, "bad-text": 1} and report["shards"] == 8
    assert contents(out) == damaged_world.calm
    assert not pids_at(out), "the shard of the killed was redone, and its record is gone"


def at_the_door() -> list:
    os.kill(os.getpid(), signal.SIGKILL)
    return []


@pytest.mark.slow
def test_processes_that_die_before_they_begin_are_not_replaced_for_ever(tmp_path):
    write_source(tmp_path / "source", 6)
    work = Reinforcement(
        source=str(tmp_path / "source"), out=str(tmp_path / "out"), teachers=at_the_door
    )
    with pytest.raises(RuntimeError, match=r"all 1 processes .* died wherever they began.*-9"):
        launch(work, "processes", workers=1, progress=False)


@pytest.mark.slow
def test_a_shard_that_kills_costs_three_processes_and_ends_with_3(
    launcher_world, tmp_path, killer_of
):
    out, said = tmp_path / "out", tmp_path / "said.json"
    with killer_of(out, shard=2) as killer:
        launcher = start(run, launcher_world.command(out, *MORE, "--workers", "2"), said)
        launcher.join(900)
    assert launcher.exitcode == 3, said.with_suffix(".err").read_text()
    report = json.loads(said.read_text())
    assert list(report["quarantined"]) == [f"{launcher_world.source}/00002.tar"]
    assert len(killer.killed) == 3 and report["shards"] == 7
    assert launcher_world.equals_but_for(2, out)
    more = (*MORE, "--workers", "1", "--retry-quarantined")
    again = start(run, launcher_world.command(out, *more), said)
    again.join(900)
    assert again.exitcode == 0 and not json.loads(said.read_text())["quarantined"]
    assert contents(out) == launcher_world.calm


@pytest.mark.slow
def test_a_killed_launcher_leaves_nobody_and_the_same_command_goes_on(launcher_world, tmp_path):
    out, said = tmp_path / "out", tmp_path / "said.json"
    arguments = launcher_world.command(out, *MORE, "--workers", "2")
    launcher = start(run, arguments, said)
    wait_until(lambda: len(contents(out)) > 8 or not launcher.is_alive())
    everybody = psutil.Process(launcher.pid).children(recursive=True)
    assert len(workers_of(launcher)) == 2
    launcher.kill()
    launcher.join()
    assert psutil.wait_procs(everybody, timeout=300)[1] == []
    assert not pids_at(out), "they ended in order"
    assert contents(out).items() < launcher_world.calm.items()
    again = start(run, arguments, said)
    again.join(900)
    assert again.exitcode == 0, said.with_suffix(".err").read_text()
    assert contents(out) == launcher_world.calm and audit(out).problems == ()


@pytest.mark.slow
def test_ctrl_c_ends_all_after_their_batch_and_says_how_to_go_on(launcher_world, tmp_path):
    out, said = tmp_path / "out", tmp_path / "said.json"
    arguments = launcher_world.command(out, "--launcher", "processes", "--workers", "2")
    launcher = start(run, arguments, said)
    wait_until(lambda: pids_at(out) or not launcher.is_alive())
    everybody = psutil.Process(launcher.pid).children(recursive=True)
    os.killpg(launcher.pid, signal.SIGINT)
    launcher.join(900)
    error = said.with_suffix(".err").read_text()
    assert launcher.exitcode == 130, error
    assert "stopped by SIGINT with" in error and "the same command goes on" in error
    assert "Traceback" not in error
    assert psutil.wait_procs(everybody, timeout=300)[1] == []
    assert not pids_at(out), "nobody is taken for dead"
    # On a slow machine the batches under way may be the store's last.
    assert contents(out).items() <= launcher_world.calm.items()
    again = start(run, arguments, said)
    again.join(900)
    assert again.exitcode == 0 and contents(out) == launcher_world.calm


def test_a_gpu_by_number_has_one_process():
    assert _usual_workers("cuda:1") == 1 and _usual_workers("cpu") >= 1


def test_arguments_of_another_launcher_are_refused(tmp_path, capsys):
    write_source(tmp_path / "source", 3)
    command = ["reinforce", str(tmp_path / "source"), str(tmp_path / "out")]
    assert main([*command, "--workers", "2"]) == 2
    assert "the launcher `processes` or `ray`" in capsys.readouterr().err
    assert main([*command, "--launcher", "processes", "--address", "auto"]) == 2
    assert "is for the launcher `ray`" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
