"""Several real processes under `accelerate launch`: one fails, one is told to stop, their number
changes between the parts of a run."""

import os
import runpy
import subprocess
import sys
import time
import traceback
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from distill.accelerate_configs import config_path
from distill.testing import end, start
from reinforced_data import reinforce
from reinforced_data.testing import tiny_teacher, write_source

SCRIPT = """
import os, signal, sys
import torch
from distill import Objective, train
from distill.config import DataConfig, OptimizerConfig, RunConfig, ScheduleConfig
from reinforced_data.testing import TOKENIZER, TinyEncoder
from students import build_student

store, out, what, at = sys.argv[1:]
rank = int(os.environ.get("RANK", "0"))
calls = []

def each_step(*_):
    calls.append(1)
    if len(calls) == int(at) and rank == int(os.environ.get("WORLD_SIZE", "1")) - 1:
        if what == "fail":
            raise RuntimeError("the planted fault")
        os.kill(os.getpid(), signal.SIGTERM)
    return torch.zeros(())

recipe = RunConfig(
    data=DataConfig(batch_size=12, num_workers=0),
    objective=Objective(
        contrastive=0.3, affinity=0.7, feature=1.0, custom={"watch": (0.0, each_step)}
    ),
    # A large epsilon: Adam divides rounding errors by themselves where gradients vanish.
    optimizer=OptimizerConfig(lr=1e-2, eps=1e-3),
    schedule=ScheduleConfig(num_steps=12, warmup_steps=1),
    log_every=1,
    save_every=0,
)
student = build_student(TinyEncoder(seed=5), image_size=16, tokenizer=TOKENIZER)
train(student, store, recipe=recipe, out=out, show=False)
"""
TWO = ("-m", "accelerate.commands.launch", "--config_file", str(config_path("cpu2")))


@pytest.fixture
def world(tmp_path):
    source = write_source(tmp_path / "source", 40, samples_per_shard=7)
    teachers = [tiny_teacher("a", seed=1), tiny_teacher("b", seed=2, embed_dim=12)]
    reinforce(source, tmp_path / "store", teachers=teachers, num_views=2, progress=False)
    (tmp_path / "script.py").write_text(SCRIPT)
    return tmp_path


def launch(world: Path, out: str, *launcher: str, what: str = "stop", at: int = 0):
    command = [sys.executable, *launcher, str(world / "script.py")]
    command += [str(world / "store"), str(world / out), what, str(at)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)


def be_a_rank(rank: int, size: int, world: Path, out: str, at: int) -> None:
    """Be what accelerate would start: the script, told by the environment which process it is."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "ACCELERATE_USE_CPU": "true"}
    torch.set_num_threads(1)
    if size > 1:
        meet = f"file://{world}/meet-{out}-{at}"
        torch.distributed.init_process_group("gloo", init_method=meet, rank=rank, world_size=size)
    sys.argv = ["script.py", str(world / "store"), str(world / out), "stop", str(at)]
    with (world / f"said-{rank}").open("w") as sys.stderr:
        try:
            runpy.run_path(str(world / "script.py"), run_name="__main__")
        except BaseException:
            traceback.print_exc()
            raise


def train_in(size: int, world: Path, out: str, at: int = 0) -> str:
    """Train in forked processes, without the seconds of their imports; say what one said."""
    started = [start(be_a_rank, rank, size, world, out, at) for rank in range(size)]
    codes = [end(process) for process in started]
    said = (world / f"said-{size - 1}").read_text()
    assert all(codes) if at else not any(codes), said
    return said


def test_an_error_in_one_process_ends_all_and_says_which(world):
    started = time.monotonic()
    done = launch(world, "out", *TWO, what="fail", at=4)
    assert done.returncode != 0 and time.monotonic() - started < 100  # imports included
    assert "the planted fault" in done.stderr and "in process 1 of 2" in done.stderr
    assert 'raise RuntimeError("the planted fault")' in done.stderr  # the traceback itself


@pytest.mark.slow
def test_a_launch_that_gave_fewer_processes_than_asked_is_warned_of(world):
    trap = ("-m", "accelerate.commands.accelerate_cli", "launch", "--cpu", "--num_processes", "2")
    done = launch(world, "out", *trap, at=1)
    assert "was asked for 2 processes and started one" in done.stderr, done.stderr[-2000:]


def test_one_process_told_to_stop_stops_all_and_others_go_on(world):
    """Two processes, then one, then two again, against one that nobody disturbed."""
    train_in(1, world, "whole")
    assert "stopped after step 4 by SIGTERM" in train_in(2, world, "cut", at=4)
    assert "stopped after step 7 by SIGTERM" in train_in(1, world, "cut", at=3)
    train_in(2, world, "cut")
    one = load_file(world / "whole" / "model.safetensors")
    three = load_file(world / "cut" / "model.safetensors")
    for name, value in one.items():
        torch.testing.assert_close(three[name], value, rtol=0, atol=2e-6)
