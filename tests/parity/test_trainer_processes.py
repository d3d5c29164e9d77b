"""Two gloo processes under `accelerate launch` train to the weights of one process."""

import os
import runpy
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from distill.accelerate_configs import config_path
from reinforced_data import ClipScore, add_scores, reinforce
from reinforced_data.testing import tiny_teacher, write_source

SCRIPT = """
import sys
import torch
from distill import Objective, train
from distill.config import DataConfig, OptimizerConfig, RunConfig, ScheduleConfig
from reinforced_data.scores.weights import ScoreWeights
from reinforced_data.testing import TOKENIZER, TinyEncoder
from students import build_student

store, out = sys.argv[1:]
student = build_student(TinyEncoder(seed=5), image_size=16, tokenizer=TOKENIZER)
recipe = RunConfig(
    data=DataConfig(
        batch_size=12,
        num_workers=0,
        score_weights=ScoreWeights(score="clip", kind="softmax", temperature=0.2),
    ),
    objective=Objective(
        contrastive=0.3,
        affinity=0.7,
        feature=1.0,
        interactive=0.5,
        relational=0.5,
        feature_standardize=True,
        feature_teacher_dropping=0.5,
    ),
    # A large epsilon: Adam divides rounding errors by themselves where gradients vanish.
    optimizer=OptimizerConfig(lr=1e-2, eps=1e-3),
    schedule=ScheduleConfig(num_steps=8, warmup_steps=1),
    log_every=1,
    save_every=4,
)
train(student, store, recipe=recipe, out=out, show=False)
"""


@pytest.fixture
def store(tmp_path):
    """A store of two teachers, with a score."""
    source = write_source(tmp_path / "source", 40, samples_per_shard=7)
    teachers = [tiny_teacher("a", seed=1), tiny_teacher("b", seed=2, embed_dim=12)]
    reinforce(source, tmp_path / "store", teachers=teachers, num_views=2, progress=False)
    add_scores(tmp_path / "store", "clip", ClipScore(teacher="a"), progress=False)
    return tmp_path / "store"


def test_two_processes_equal_one(store, tmp_path, monkeypatch):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    monkeypatch.setattr(sys, "argv", [str(script), str(store), str(tmp_path / "one")])
    runpy.run_path(str(script))
    launcher = ("-m", "accelerate.commands.launch", "--config_file", str(config_path("cpu2")))
    done = subprocess.run(
        [sys.executable, *launcher, str(script), str(store), str(tmp_path / "two")],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    one = load_file(tmp_path / "one" / "model.safetensors")
    two = load_file(tmp_path / "two" / "model.safetensors")
    start = load_file(tmp_path / "one" / "checkpoints" / "step-00000004" / "tensors.safetensors")
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=0, atol=2e-6)
    moved = (one["image"] - start["model/student.module.image"]).abs().max()
    assert moved > 1e-3  # otherwise equality would say nothing
    single = (tmp_path / "one" / "log.jsonl").read_text().count("\n")
    assert (tmp_path / "two" / "log.jsonl").read_text().count("\n") == single
