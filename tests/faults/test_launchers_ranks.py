"""Slurm arrays and `accelerate launch`: one of the processes is killed; nobody misses it."""

import os
import signal
import subprocess
import sys
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from distill.cli import main
from distill.testing import start
from reinforced_data import audit
from reinforced_data.testing import contents, pids_at, wait_until


def array_task(arguments: list[str], environment: dict[str, str]) -> None:
    """Be one task of `sbatch --array=10-30:10`, as Slurm starts it."""
    os.environ.update(environment)
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - to its end
    sys.exit(main(arguments))


def start_array(world, out: Path) -> dict[int, BaseProcess]:
    tasks = {}
    for task in (10, 20, 30):
        environment = {
            "SLURM_ARRAY_JOB_ID": "4711",
            "SLURM_ARRAY_TASK_ID": str(task),
            "SLURM_ARRAY_TASK_MIN": "10",
            "SLURM_ARRAY_TASK_MAX": "30",
            "SLURM_ARRAY_TASK_STEP": "10",
            "SLURM_ARRAY_TASK_COUNT": "3",
            "SLURM_PROCID": "0",
            "SLURM_NTASKS": "1",
            "SLURM_LOCALID": "0",
        }
        tasks[task] = start(array_task, world.command(out, "--json"), environment)
    return tasks


def shards_of(pid: int, out: Path) -> list[int]:
    return [shard for shard, pids in pids_at(out).items() if pid in pids]


def test_a_killed_task_of_a_slurm_array_is_missed_by_nobody(damaged_world, tmp_path):
    out = tmp_path / "out"
    tasks = start_array(damaged_world, out)
    wait_until(lambda: shards_of(tasks[20].pid, out))
    # Of eight shards the second of three tasks begins with the third one.
    assert min(shards_of(tasks[20].pid, out)) >= 2
    os.kill(tasks[20].pid, signal.SIGKILL)
    for task in tasks.values():
        task.join(900)
    assert [tasks[task].exitcode for task in (10, 20, 30)] == [3, -signal.SIGKILL, 3]
    assert contents(out) == damaged_world.calm
    assert not pids_at(out), "the others have done its shard"


def accelerate(arguments: list[str]) -> subprocess.Popen:
    """The line of docs/launchers.md."""
    line = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu"]
    line += ["--num_processes", "2", "-m", "distill", *arguments]
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(line, env=environment, start_new_session=True, **pipes)


@pytest.mark.slow
def test_a_killed_rank_of_accelerate_ends_all_and_the_same_command_goes_on(
    launcher_world, tmp_path
):
    out = tmp_path / "out"
    ranks = accelerate(launcher_world.command(out))
    wait_until(lambda: pids_at(out) or ranks.poll() is not None)
    at_it = pids_at(out)
    os.kill(next(pid for pids in at_it.values() for pid in pids), signal.SIGKILL)
    _, error = ranks.communicate(timeout=900)
    assert ranks.returncode != 0 and "Signal 9" in error, error
    before = contents(out)
    assert before.items() < launcher_world.calm.items()
    # The other rank ended in order: the one record that is left is that of the killed.
    assert sum(map(len, pids_at(out).values())) <= 1
    again = accelerate(launcher_world.command(out))
    _, error = again.communicate(timeout=900)
    assert again.returncode == 0, error
    assert contents(out) == launcher_world.calm and not pids_at(out)
    assert audit(out).problems == ()


@pytest.mark.slow
def test_under_accelerate_with_processes_no_rank_dies(launcher_world, tmp_path, killer_of):
    """accelerate ends all ranks when one dies; here none does, whoever kills their processes."""
    out = tmp_path / "out"
    more = ("--launcher", "processes", "--workers", "1", "--json")
    with killer_of(out, shard=2) as killer:
        ranks = accelerate(launcher_world.command(out, *more))
        _, error = ranks.communicate(timeout=900)
    assert len(killer.killed) == 3
    assert ranks.returncode == 1 and "exitcode  : 3" in error, error
    assert "Signal 9" not in error
    assert launcher_world.equals_but_for(2, out)
