"""Two gloo processes take the steps of one with Lion, LAMB, Muon and 8-bit AdamW."""

import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from distill.accelerate_configs import config_path
from reinforced_data import reinforce
from reinforced_data.testing import tiny_teacher, write_source

SCRIPT = """
import sys
import torch
from distill import Objective, train
from distill.config import DataConfig, OptimizerConfig, RunConfig, ScheduleConfig
from reinforced_data.testing import TOKENIZER, TinyEncoder
from students import StudentSpec, TextSpec, build_student

def learner(name):
    if name != "muon":
        return build_student(TinyEncoder(128, seed=5), image_size=16, tokenizer=TOKENIZER)
    torch.manual_seed(5)  # it takes the weights of layers, of which the other has none
    text = TextSpec(width=16, layers=1, heads=2, context_length=TOKENIZER.context_length)
    spec = StudentSpec(image="test_vit", text=text, embed_dim=16, image_size=64)
    return build_student(spec, tokenizer=TOKENIZER)

store, out = sys.argv[1:]
for name, lr in (("lion", 1e-3), ("lamb", 1e-2), ("muon", 1e-2), ("adamw8bit", 1e-2)):
    student = learner(name)
    recipe = RunConfig(
        data=DataConfig(batch_size=12, num_workers=0),
        objective=Objective(contrastive=0.3, affinity=0.7, feature=1.0),
        # A large epsilon: Adam divides rounding errors by themselves where gradients vanish.
        optimizer=OptimizerConfig(name=name, lr=lr, eps=1e-3),
        schedule=ScheduleConfig(num_steps=6, warmup_steps=1),
        log_every=1,
        save_every=3,
    )
    train(student, store, recipe=recipe, out=f"{out}/{name}", show=False)
"""


def launch(script, store, out, *launcher):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *launcher, str(script), str(store), str(out)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
def test_two_processes_equal_one_with_every_kind_of_optimizer(tmp_path):
    source = write_source(tmp_path / "source", 40, samples_per_shard=7)
    teachers = [tiny_teacher(seed=1)]
    reinforce(source, tmp_path / "store", teachers=teachers, num_views=2, progress=False)
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    launch(script, tmp_path / "store", tmp_path / "one")
    config = ("-m", "accelerate.commands.launch", "--config_file", str(config_path("cpu2")))
    launch(script, tmp_path / "store", tmp_path / "two", *config)
    for name in ("lion", "lamb", "muon", "adamw8bit"):
        one, two, halfway = (
            load_file(tmp_path / run / name / file)
            for run, file in (
                ("one", "model.safetensors"),
                ("two", "model.safetensors"),
                ("one", "checkpoints/step-00000003/tensors.safetensors"),
            )
        )
        # The order in which gradients are added up differs in the last bit; Muon rounds to
        # bfloat16 after it, whose last bit is of a step of 0.002.
        atol = 1e-4 if name == "muon" else 2e-6
        for parameter, value in one.items():
            torch.testing.assert_close(two[parameter], value, rtol=0, atol=atol)
        moved = [
            (value - halfway[f"model/student.module.{parameter}"]).abs().max()
            for parameter, value in one.items()
            if f"model/student.module.{parameter}" in halfway
        ]
        assert moved and max(moved) > 1e-3  # otherwise equality would say nothing
