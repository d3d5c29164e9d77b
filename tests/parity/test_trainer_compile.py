"""Compiled towers train to the eager weights. In a process of its own: jaxtyping's checks, which
the test run switches on, cannot be traced."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

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


# Two phases and every token, each with its own shapes. Within a phase nothing is compiled again,
# and no tower is cut into several graphs.
POLICIES = """
import dataclasses
import sys
import torch
from torch._dynamo.utils import counters
from distill import Objective, stepping, train
from distill.config import DataConfig, OptimizerConfig, RunConfig, ScheduleConfig
from reinforced_data.testing import TOKENIZER
from students import StudentSpec, TextSpec, build_student
from students.tokens.policy import TokenPolicy

compiler, backend = torch.compile, sys.argv[2]
torch.compile = lambda function: compiler(function, backend=backend)
step, graphs = stepping.Stepper.step, []
def counted(self, batch, number):
    stepped = step(self, batch, number)
    graphs.append(counters["stats"]["unique_graphs"])
    return stepped
stepping.Stepper.step = counted
spec = StudentSpec(
    image="test_vit",
    text=TextSpec(width=16, layers=1, heads=2, context_length=TOKENIZER.context_length),
    embed_dim=16,
    image_size=64,
)
recipe = RunConfig(
    data=DataConfig(batch_size=8, num_workers=0),
    objective=Objective(contrastive=0.5, affinity=0.5),
    optimizer=OptimizerConfig(lr=1e-3, eps=1e-3),
    schedule=ScheduleConfig(num_steps=6, warmup_steps=1),
)
first = TokenPolicy(image_keep=0.5, image="random", text="truncate", text_length=5, until=0.34)
for image in sys.argv[3:]:
    torch._dynamo.reset()
    counters.clear()
    tokens = dataclasses.replace(first, image=image)
    then = TokenPolicy(image=image, image_keep=0.75, until=0.67)
    weights = []
    for compiled in (False, True):
        torch.manual_seed(0)
        graphs.clear()
        student = build_student(spec, tokenizer=TOKENIZER)
        config = dataclasses.replace(recipe, tokens=tokens, tokens_then=(then,), compile=compiled)
        result = train(student, sys.argv[1], recipe=config, show=False)
        assert [cost["steps"] for cost in result.cost] == [2, 2, 2]
        assert result.cost[0]["tokens/image"] < result.cost[2]["tokens/image"]
        weights.append(student.state_dict())
    assert not counters["graph_break"], counters["graph_break"]
    assert 3 <= graphs[-1] <= 6 and graphs[::2] == graphs[1::2], graphs  # two steps a phase
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=0, atol=1e-5)
"""


def run(script: str, tmp_path: Path, *arguments: str) -> None:
    source = write_source(tmp_path / "source", 24)
    store = tmp_path / "store"
    reinforce(source, store, teachers=[tiny_teacher()], num_views=2, progress=False)
    done = subprocess.run(
        [sys.executable, "-c", script, str(store), *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
def test_compiled_towers_train_to_the_eager_weights(tmp_path):
    run(SCRIPT, tmp_path)


@pytest.mark.slow
def test_compiled_towers_follow_the_token_policies(tmp_path):
    run(POLICIES, tmp_path, "aot_eager", "random", "merge", "resize")
