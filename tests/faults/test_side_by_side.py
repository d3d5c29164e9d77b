"""The launcher of several processes, or one of them, is killed; nobody is left behind."""

import json
import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.process import BaseProcess
from pathlib import Path

import psutil
import pytest
from rich.console import Console

from distill.checkpoint import newest_checkpoint
from distill.config import DataConfig, RunConfig, ScheduleConfig, StudentConfig
from distill.recipes.demo import GLYPH_VIEWS
from distill.reinforcing import Reinforcement, reinforce_side_by_side
from distill.side_by_side import train_side_by_side
from distill.testing import end, start
from reinforced_data import audit, reinforce
from reinforced_data.testing import write_source
from students import StudentSpec, TextSpec, build_student, load_student
from teachers import load_teacher

SPEC = StudentSpec(
    image="smallconv-8",
    text=TextSpec(width=16, layers=1, heads=2, context_length=8),
    embed_dim=16,
    image_size=32,
)
VIEWS = 16


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """A source of twenty shards, a teacher's folder and the store of a calm run."""
    folder = tmp_path_factory.mktemp("world")
    write_source(folder / "source", 400, samples_per_shard=20)
    build_student(SPEC).save(folder / "teacher-a")
    reinforce(
        str(folder / "source"),
        folder / "calm",
        teachers=load_teacher(load_student(folder / "teacher-a"), precision="fp32"),
        num_views=VIEWS,
        policy=GLYPH_VIEWS,
        progress=False,
    )
    return folder


def work(world: Path, store: Path) -> Reinforcement:
    return Reinforcement(
        source=str(world / "source"),
        store=store,
        teachers=(world / "teacher-a",),
        num_views=VIEWS,
        policy=GLYPH_VIEWS,
    )


def launch_reinforce(world: Path, store: Path, said: Path) -> None:
    with said.open("w") as file:
        reinforce_side_by_side(work(world, store), processes=2, console=Console(file=file))


def launch_training(config: RunConfig) -> None:
    train_side_by_side([config], processes=1, console=Console(quiet=True))


def workers(launcher: BaseProcess) -> list[psutil.Process]:
    """The launcher's processes but multiprocessing's own resource tracker."""
    children = psutil.Process(launcher.pid).children(recursive=True)
    return [child for child in children if "spawn_main" in " ".join(child.cmdline())]


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def contents(store: Path) -> dict[str, tuple]:
    """What two equal stores share."""
    commits = [json.loads(path.read_text()) for path in (store / "commits").rglob("*.json")]
    return {f"{c['column']}/{c['shard']}": (c["sha256"], c["rows"]) for c in commits}


def began(store: Path) -> bool:
    return any((store / "commits").glob("image-*/*.json"))


def test_the_processes_of_a_killed_launcher_end_and_the_same_call_goes_on(world, tmp_path):
    store = tmp_path / "store"
    launcher = start(launch_reinforce, world, store, tmp_path / "said")
    wait_until(lambda: began(store))
    left = workers(launcher)
    assert len(left) == 2
    os.kill(launcher.pid, signal.SIGKILL)
    launcher.join()
    assert psutil.wait_procs(left, timeout=30)[1] == []
    assert contents(store).items() < contents(world / "calm").items()
    reinforce_side_by_side(work(world, store), processes=1, console=Console(quiet=True))
    assert contents(store) == contents(world / "calm")
    assert audit(store).problems == ()


def test_a_killed_process_is_told_of_and_the_others_do_its_part(world, tmp_path):
    store = tmp_path / "store"
    launcher = start(launch_reinforce, world, store, tmp_path / "said")
    wait_until(lambda: began(store))
    workers(launcher)[0].kill()
    assert end(launcher) == 0
    assert "exit codes -9" in (tmp_path / "said").read_text()
    assert contents(store) == contents(world / "calm")


def test_when_all_are_killed_the_error_says_so(world, tmp_path):
    store = tmp_path / "store"
    launcher = start(reports_its_error, world, store, tmp_path / "said")
    wait_until(lambda: began(store))
    for worker in workers(launcher):
        worker.kill()
    launcher.join(120)
    said = (tmp_path / "said").read_text()
    assert said.startswith("all 2 processes that reinforced") and "-9, -9" in said


def reports_its_error(world: Path, store: Path, said: Path) -> None:
    try:
        reinforce_side_by_side(work(world, store), processes=2, console=Console(quiet=True))
    except RuntimeError as error:
        said.write_text(str(error))


def test_an_error_in_a_process_is_the_callers(world, tmp_path):
    wrong = replace(work(world, tmp_path / "store"), teachers=(tmp_path / "nobody",))
    with pytest.raises(ValueError, match=r"no student in .*nobody"):
        reinforce_side_by_side(wrong, processes=1, console=Console(quiet=True))


def test_the_training_of_a_killed_launcher_saves_and_ends(world, tmp_path):
    config = RunConfig(
        student=StudentConfig(name=str(world / "teacher-a")),
        data=DataConfig(store=str(world / "calm"), batch_size=32, teachers=(), num_workers=1),
        schedule=ScheduleConfig(num_steps=100_000),
        out=str(tmp_path / "run"),
        save_every=0,
        log_every=1,
    )
    launcher = start(launch_training, config)
    log = Path(config.out) / "log.jsonl"
    wait_until(lambda: log.is_file() and log.stat().st_size)
    left = workers(launcher)
    os.kill(launcher.pid, signal.SIGKILL)
    launcher.join()
    assert psutil.wait_procs(left, timeout=30)[1] == []
    assert newest_checkpoint(Path(config.out, "checkpoints")) is not None
