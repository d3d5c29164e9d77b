"""`--launcher processes`, Slurm arrays and `accelerate launch`: who dies takes nobody along."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor

from distill.accelerate_configs import config_path
from distill.launching import launch, reinforce_in_processes
from distill.remote_work import RemoteWork
from reinforced_data import ViewPolicy, audit, reinforce
from reinforced_data.reinforce_work import ReinforceSettings
from reinforced_data.testing import TinyEncoder, encoded, sample, tiny_teacher, write_source

SETTINGS = ReinforceSettings(num_views=1, policy=ViewPolicy(num_ops=0), batch_size=4)
SHARDS = 5


class Dies(TinyEncoder):
    """SIGKILLs its own process when it sees a picture of one colour."""

    def encode_image(self, images: Tensor, /) -> Tensor:
        if (images.std(dim=(2, 3)).amax(1) < 1e-4).any():
            os.kill(os.getpid(), signal.SIGKILL)
        return super().encode_image(images)


class Slow(TinyEncoder):
    """Leaves time to kill somebody."""

    def encode_image(self, images: Tensor, /) -> Tensor:
        time.sleep(0.3)
        return super().encode_image(images)


def deadly() -> list:
    return [tiny_teacher(module=Dies())]


def slow() -> list:
    return [tiny_teacher(module=Slow())]


def at_the_door() -> list:
    os.kill(os.getpid(), signal.SIGKILL)
    return []


def write_shards(folder: Path, *, poisoned: bool) -> str:
    from PIL import Image

    samples = [sample(number) for number in range(3 * SHARDS)]
    if poisoned:
        samples[7] = sample(7, png=encoded(Image.new("RGB", (24, 16), "white")))
    write_source(folder, samples, samples_per_shard=3)
    return str(folder)


def committed(out: Path) -> dict[str, str]:
    commits = [json.loads(path.read_text()) for path in sorted((out / "commits").rglob("*.json"))]
    return {f"{c['column']}/{c['shard']}": c["sha256"] for c in commits}


def calm(source: str, out: Path) -> dict[str, str]:
    reinforce(source, out, teachers=tiny_teacher(), progress=False, **vars(SETTINGS))
    return committed(out)


def work(source: str, out: Path, teachers) -> RemoteWork:
    return RemoteWork(source=source, out=str(out), teachers=teachers, settings=SETTINGS)


def test_one_command_survives_the_shard_that_kills(tmp_path):
    source = write_shards(tmp_path / "source", poisoned=True)
    report = launch(work(source, tmp_path / "out", deadly), "processes", workers=2, progress=False)
    assert list(report.quarantined) == [f"{source}/00002.tar"] and report.shards == SHARDS - 1
    expected = calm(source, tmp_path / "calm")
    wanted = {
        name for name in expected if not (name.startswith(("image", "text")) and "/2" in name)
    }
    assert {name: expected[name] for name in wanted} == committed(tmp_path / "out")


def test_processes_that_die_before_they_begin_are_not_replaced_for_ever(tmp_path):
    source = write_shards(tmp_path / "source", poisoned=False)
    with pytest.raises(RuntimeError, match="where no shard accounts for it"):
        launch(work(source, tmp_path / "out", at_the_door), "processes", workers=1, progress=False)


def driver(source: str, out: str) -> None:
    os.setpgrp()
    reinforce_in_processes(work(source, Path(out), slow), 2, progress=False)


def start(function, *arguments):
    process = multiprocessing.get_context("spawn").Process(target=function, args=arguments)
    process.start()
    return process


def workers_at(out: Path) -> list[int]:
    records = [json.loads(path.read_text() or "{}") for path in out.glob("attempts/*.json")]
    return [record["pid"] for record in records if record]


def wait_until(condition) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.slow
def test_a_worker_killed_then_the_launcher_killed_and_run_again(tmp_path):
    source, out = write_shards(tmp_path / "source", poisoned=False), tmp_path / "out"
    launcher = start(driver, source, str(out))
    wait_until(lambda: len(workers_at(out)) > 0)
    os.kill(workers_at(out)[0], signal.SIGKILL)
    wait_until(lambda: len(committed(out)) > 5)
    launcher.kill()
    launcher.join()
    # Its processes notice and end after their batch.
    wait_until(lambda: not workers_at(out))
    report = reinforce_in_processes(work(source, out, deadly), 2, progress=False)
    assert report.shards == SHARDS and not report.quarantined
    assert committed(out) == calm(source, tmp_path / "calm")
    assert audit(out, teachers=tiny_teacher()).problems == ()


def array_task(source: str, out: str, task: int, die: bool) -> None:
    os.environ.update(SLURM_ARRAY_TASK_ID=str(task), SLURM_ARRAY_TASK_COUNT="3")
    torch.set_num_threads(1)
    teacher = tiny_teacher(module=Slow())
    if die:
        begin, calls = teacher.module.encode_image, []

        def killed(images: Tensor) -> Tensor:
            calls.append(1)
            if len(calls) == 2:
                os.kill(os.getpid(), signal.SIGKILL)
            return begin(images)

        teacher.module.encode_image = killed
    reinforce(source, out, teachers=teacher, progress=False, **vars(SETTINGS))


@pytest.mark.slow
def test_a_task_of_a_slurm_array_that_is_killed_is_missed_by_nobody(tmp_path):
    source, out = write_shards(tmp_path / "source", poisoned=False), tmp_path / "out"
    tasks = [start(array_task, source, str(out), task, task == 1) for task in range(3)]
    for task in tasks:
        task.join(300)
    assert [task.exitcode for task in tasks] == [0, -signal.SIGKILL, 0]
    assert committed(out) == calm(source, tmp_path / "calm")
    assert not (out / "attempts").exists(), "the others have done its shard"


SCRIPT = """
import sys
sys.path[:0] = {path!r}
from pathlib import Path
from tests.faults.test_launchers_processes import deadly, work
from distill.launching import launch
source, out = sys.argv[1:]
if __name__ == "__main__":
    report = launch(work(source, Path(out), deadly), "processes", workers=1, progress=False)
    assert list(report.quarantined) == [source + "/00002.tar"], report
"""


@pytest.mark.slow
def test_under_accelerate_each_rank_watches_over_its_own(tmp_path):
    """accelerate ends all ranks when one dies; here none does, whatever kills their processes."""
    source = write_shards(tmp_path / "source", poisoned=True)
    root = Path(__file__).parents[2]
    (tmp_path / "script.py").write_text(SCRIPT.format(path=[str(root)]))
    command = [sys.executable, "-m", "accelerate.commands.launch"]
    command += ["--config_file", str(config_path("cpu2")), str(tmp_path / "script.py")]
    done = subprocess.run(
        [*command, source, str(tmp_path / "out")], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    expected = calm(source, tmp_path / "calm")
    assert len(committed(tmp_path / "out")) == len(expected) - 2
