"""The launcher of several trainings is killed; nobody is left behind."""

import os
import signal
from pathlib import Path

import psutil
import pytest
from rich.console import Console

from distill.checkpoint import newest_checkpoint
from distill.config import DataConfig, RunConfig, ScheduleConfig, StudentConfig
from distill.recipes.demo import GLYPH_VIEWS
from distill.side_by_side import train_side_by_side
from distill.testing import start, workers_of
from reinforced_data import reinforce
from reinforced_data.testing import wait_until, write_source
from students import StudentSpec, TextSpec, build_student, load_student
from teachers import load_teacher

SPEC = StudentSpec(
    image="smallconv-8",
    text=TextSpec(width=16, layers=1, heads=2, context_length=8),
    embed_dim=16,
    image_size=32,
)


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
        num_views=2,
        policy=GLYPH_VIEWS,
        progress=False,
    )
    return folder


def launch_training(config: RunConfig) -> None:
    train_side_by_side([config], processes=1, console=Console(quiet=True))


@pytest.mark.slow
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
    left = workers_of(launcher)
    assert left
    os.kill(launcher.pid, signal.SIGKILL)
    launcher.join()
    assert psutil.wait_procs(left, timeout=30)[1] == []
    assert newest_checkpoint(Path(config.out, "checkpoints")) is not None
