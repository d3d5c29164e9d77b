"""Compiled towers train to the eager weights. In a process of its own: jaxtyping's checks, which
the test run switches on, cannot be traced."""

import os
import subprocess
import sys

from reinforced_data import reinforce
from reinforced_data.testing import tiny_teacher, write_source

SCRIPT = """
import dataclasses
import sys
import torch
from torch._dynamo.utils import counters
from distill import Objective, train
from distill.config import DataConfig, OptimizerConfig, RunConfig, ScheduleConfig
from reinforced_data.testing import TOKENIZER, TinyEncoder
from students import build_student

recipe = RunConfig(
    data=DataConfig(batch_size=12, num_workers=0),
    objective=Objective(contrastive=0.3, affinity=0.7),
    optimizer=OptimizerConfig(lr=1e-2, eps=1e-3),
    schedule=ScheduleConfig(num_steps=4, warmup_steps=1),
)
weights = []
for compiled in (False, True):
    student = build_student(TinyEncoder(seed=5), image_size=16, tokenizer=TOKENIZER)
    before = student.module.image.detach().clone()
    train(student, sys.argv[1], recipe=dataclasses.replace(recipe, compile=compiled), show=False)
    assert (student.module.image - before).abs().max() > 1e-3
    weights.append(student.state_dict())
assert counters["stats"]["unique_graphs"] >= 2, counters
assert "encode_image" not in vars(student.module)
for name, value in weights[0].items():
    torch.testing.assert_close(weights[1][name], value, rtol=0, atol=1e-5)
"""


def test_compiled_towers_train_to_the_eager_weights(tmp_path):
    source = write_source(tmp_path / "source", 24)
    store = tmp_path / "store"
    reinforce(source, store, teachers=[tiny_teacher()], num_views=2, progress=False)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(store)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
