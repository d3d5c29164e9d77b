"""Runs with every optimizer: resumed bit for bit, in bfloat16, and as good with 8-bit state."""

import dataclasses
import shutil
import statistics

import pytest
import torch

from distill import Objective, train
from distill.config import DataConfig, OptimizerConfig, RunConfig, ScheduleConfig
from distill.optimization import OPTIMIZERS
from distill.run_log import read_log
from reinforced_data import reinforce
from reinforced_data.testing import TOKENIZER, TinyEncoder, tiny_teacher, write_source
from students import StudentSpec, TextSpec, build_student, load_student

# AdamW's own rate; Lion's is a third to a tenth of it.
RATES = {"lion": 2e-3, "lion8bit": 2e-3}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    source = write_source(folder / "source", 40, samples_per_shard=10)
    reinforce(
        source, folder / "store", teachers=[tiny_teacher(seed=1)], num_views=2, progress=False
    )
    return folder / "store"


def recipe(name, num_steps=6, **changes):
    config = RunConfig(
        data=DataConfig(batch_size=16, num_workers=0),
        objective=Objective(contrastive=0.3, affinity=0.7, feature=1.0),
        optimizer=OptimizerConfig(name=name, lr=RATES.get(name, 1e-2), betas=(0.9, 0.98)),
        schedule=ScheduleConfig(num_steps=num_steps, warmup_steps=1),
        log_every=1,
        save_every=3,
        keep_checkpoints=9,
    )
    return dataclasses.replace(config, **changes)


def student(seed=3, name="adamw"):
    """Wide enough that its matrices' state is kept in 8 bits (4,096 numbers or more).

    For Muon, which takes the weights of layers, one that has layers.
    """
    if name != "muon":
        return build_student(TinyEncoder(128, seed=seed), image_size=16, tokenizer=TOKENIZER)
    torch.manual_seed(seed)
    text = TextSpec(width=16, layers=1, heads=2, context_length=TOKENIZER.context_length)
    spec = StudentSpec(image="smallconv-4", text=text, embed_dim=16, image_size=16)
    return build_student(spec, tokenizer=TOKENIZER)


@pytest.mark.parametrize("precision", ["no", "bf16"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_resumed_run_has_the_bits_of_one_that_was_not_stopped(name, precision, store, tmp_path):
    config = recipe(name, precision=precision)
    whole = train(student(name=name), store, recipe=config, out=tmp_path / "whole", show=False)
    stopped = tmp_path / "stopped"
    shutil.copytree(
        tmp_path / "whole" / "checkpoints" / "step-00000003",
        stopped / "checkpoints" / "step-00000003",
    )
    shutil.copy(tmp_path / "whole" / "config.json", stopped)
    resumed = train(student(9, name), store, recipe=config, out=stopped, show=False)
    assert [r["step"] for r in read_log(stopped) if "loss/total" in r] == [4, 5, 6]
    again = dict(resumed.student.named_parameters())
    for parameter, value in whole.student.named_parameters():
        assert torch.equal(again[parameter], value), parameter
    module = None if name == "muon" else TinyEncoder(128)
    saved = load_student(stopped, module=module).state_dict()
    assert all(torch.equal(saved[n], v) for n, v in whole.student.state_dict().items())


@pytest.mark.slow
@pytest.mark.parametrize(("small", "large"), [("adamw8bit", "adamw"), ("lion8bit", "lion")])
def test_8_bit_state_ends_within_the_noise_of_seeds(small, large, store, tmp_path):
    def end(name, seed):
        out = tmp_path / f"{name}-{seed}"
        config = recipe(name, num_steps=60, seed=seed, save_every=0)
        train(student(seed), store, recipe=config, out=out, show=False)
        losses = [r["loss/total"] for r in read_log(out) if "loss/total" in r]
        assert losses[-1] < 0.8 * losses[0]
        return statistics.mean(losses[-5:])

    seeds = (1, 2, 3)
    full = [end(large, seed) for seed in seeds]
    difference = statistics.mean(end(small, s) - f for s, f in zip(seeds, full, strict=True))
    assert abs(difference) <= statistics.stdev(full)
