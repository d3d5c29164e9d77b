"""Masks learn the same on two processes, over micro-batches and with checkpointed activations."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from torch import Tensor

from distill import Objective, train
from distill.accelerate_configs import config_path
from distill.config import DataConfig, OptimizerConfig, RunConfig, ScheduleConfig
from distill.gradient_cache import MicroBatch, cached_backward
from distill.mask_config import MaskConfig
from distill.mask_report import SIZES_FILE
from distill.training_module import Taught, TrainingModule
from reinforced_data import reinforce
from reinforced_data.testing import TOKENIZER, tiny_teacher, write_source
from students import OpenClipSpec, build_student
from students.inheritance.testing import inputs_for, randomise
from students.masks.testing import FAMILIES, SMALL, masked
from students.student import Student


def prepared(family: str) -> tuple[Student, TrainingModule, Tensor]:
    """A masked student in training mode, with one step's gates, which gather gradients."""
    student = randomise(FAMILIES[family](), 1)
    masks = masked(student)
    objective = Objective(contrastive=1.0, affinity=0.0).build(student.embed_dim, [])
    module = TrainingModule(student, objective).double().train()
    masks.draw(5)
    return student, module, masks.drawn


def gradients(module: TrainingModule, gates: Tensor) -> list[Tensor]:
    assert gates.grad is not None and (gates.grad != 0).float().mean() > 0.3
    found = [gates.grad]
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, name
        found.append(parameter.grad)
    return found


def whole(module: TrainingModule, pixels: Tensor, tokens: Tensor) -> None:
    torch.manual_seed(0)
    module(pixels, [tokens], [Taught([], torch.arange(len(pixels)))])["total"].backward()


@pytest.mark.parametrize("family", ["open_clip ViT", "timm ViT", "RoBERTa"])
def test_gates_get_the_same_gradient_from_checkpointed_activations(family: str) -> None:
    found = []
    for checkpointing in (False, True):
        student, module, gates = prepared(family)
        if checkpointing:
            student.set_grad_checkpointing(True)
        whole(module, *inputs_for(student))
        found.append(gradients(module, gates))
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("family", ["open_clip ViT", "SigLIP ViT"])
def test_gates_get_the_whole_batchs_gradient_from_micro_batches(family: str) -> None:
    student, module, gates = prepared(family)
    pixels, tokens = inputs_for(student)
    whole(module, pixels, tokens)
    expected = gradients(module, gates)
    student, module, gates = prepared(family)
    parts = [
        MicroBatch(images=pixels[i : i + 2], tokens=[tokens[i : i + 2]], seed=i) for i in (0, 2, 4)
    ]
    taught = [Taught([], torch.arange(len(pixels)))]
    cached_backward(module, parts, accelerator=Accelerator(cpu=True), taught=taught, group=None)
    for one, two in zip(gradients(module, gates), expected, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-12)


def learn(store: str, out: str, micro_batch_size: int, checkpointing: bool) -> None:
    """A run with masks; this file's own program too."""
    text = {"width": 64, "heads": 4, "layers": 3}
    spec = OpenClipSpec(model="ViT-B-32", vision=SMALL, text=text, embed_dim=16)
    torch.manual_seed(4)
    student = build_student(spec, tokenizer=TOKENIZER)
    recipe = RunConfig(
        data=DataConfig(batch_size=12, num_workers=0, micro_batch_size=micro_batch_size),
        objective=Objective(contrastive=0.3, affinity=0.7),
        # A large epsilon: Adam divides rounding errors by themselves where gradients vanish.
        optimizer=OptimizerConfig(lr=1e-2, eps=1e-3),
        schedule=ScheduleConfig(num_steps=10, warmup_steps=1),
        masks=MaskConfig(keep=0.6, steps=7, warmup_steps=2, lr=0.3, multiplier_lr=0.3),
        activation_checkpointing=checkpointing,
        save_every=5,
    )
    train(student, store, recipe=recipe, out=out, show=False)


@pytest.mark.slow
def test_two_processes_micro_batches_and_checkpointing_find_the_student_of_one(tmp_path) -> None:
    source = write_source(tmp_path / "source", 40, samples_per_shard=7)
    reinforce(
        source,
        tmp_path / "store",
        teachers=[tiny_teacher("a", seed=1)],
        num_views=2,
        progress=False,
    )
    store = str(tmp_path / "store")
    learn(store, str(tmp_path / "one"), 0, False)
    learn(store, str(tmp_path / "micro"), 5, True)
    launcher = ["-m", "accelerate.commands.launch", "--config_file", str(config_path("cpu2"))]
    done = subprocess.run(
        [sys.executable, *launcher, __file__, store, str(tmp_path / "two")],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for other in ("micro", "two"):
        for part in ("stages/1-masks", "stages/2-folded", "."):
            same(tmp_path / "one" / part, tmp_path / other / part)
    found = json.loads((tmp_path / "two" / "stages" / "2-folded" / SIZES_FILE).read_text())
    assert found["sizes"]["image.heads"] == [4, 3] and found["sizes"]["image.layers"] == [3, 2]


def same(one: Path, other: Path) -> None:
    weights, others = (load_file(each / "model.safetensors") for each in (one, other))
    assert weights.keys() == others.keys()
    for name, value in weights.items():
        torch.testing.assert_close(others[name], value, rtol=0, atol=1e-5, msg=f"{other}: {name}")


if __name__ == "__main__":
    learn(sys.argv[1], sys.argv[2], 0, False)
