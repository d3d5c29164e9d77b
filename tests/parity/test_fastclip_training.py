"""FastCLIP through the trainer: the running means are of samples, are resumed, and are undone."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from distill import Objective, train
from distill.config import DataConfig, OptimizerConfig, RunConfig, ScheduleConfig
from distill.feeding import batches, numbered_samples
from distill.preparing import accelerator_for
from distill.stepping import Stepper
from reinforced_data import CaptionPolicy, open_dataset, reinforce
from reinforced_data.testing import TOKENIZER, TinyEncoder, sample, write_source
from students import build_student

SAMPLES = 26  # 3 steps an epoch, and two samples a turn left over


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """One sample's picture is broken: it has a number, which no batch has."""
    folder = tmp_path_factory.mktemp("fastclip")
    samples = [sample(n, **({"png": b"none"} if n == 3 else {})) for n in range(SAMPLES + 1)]
    source = write_source(folder / "source", samples, samples_per_shard=10)
    reinforce(source, folder / "store", teachers=(), num_views=2, progress=False)
    return folder / "store"


def recipe(**objective) -> RunConfig:
    objective = {"contrastive": 0.0, "fastclip": 1.0, "fastclip_gamma_epochs": 2} | objective
    return RunConfig(
        data=DataConfig(batch_size=8, num_workers=0),
        objective=Objective(**objective),
        optimizer=OptimizerConfig(lr=1e-2, eps=1e-3),
        schedule=ScheduleConfig(num_steps=9, warmup_steps=1),
        log_every=1,
        save_every=4,
    )


def student(seed: int = 5, **changes):
    module = TinyEncoder(seed=seed, **changes)
    return build_student(module, image_size=16, tokenizer=TOKENIZER)


def weights(result) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in result.student.module.state_dict().items()}


@pytest.fixture(scope="module")
def whole(store, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "run"
    return out, weights(train(student(), store, recipe=recipe(), out=out, show=False))


OWN = {"fastclip_version": "v2", "fastclip_rho": 1.0, "fastclip_temperature": 0.1}


def last_checkpoint(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "checkpoints/step-00000008/tensors.safetensors")


def test_a_sample_has_one_number_in_every_epoch_and_process(store):
    dataset, config, known = open_dataset(store), recipe(), dict[str, int]()
    assert dataset.num_rows == numbered_samples(dataset, config) == SAMPLES + 1
    for rank in range(2):
        part = batches(dataset, student(), config, first=0, last=9, rank=rank, world_size=2)
        for batch in part:
            for key, number in zip(batch.keys, batch.numbers.tolist(), strict=True):
                assert known.setdefault(key, number) == number
    assert sorted(known.values()) == sorted(int(key) for key in known)
    assert len(known) >= SAMPLES - 2 and 3 not in known.values()


def test_a_resumed_run_has_its_means_and_is_the_whole_one_bit_for_bit(store, whole, tmp_path):
    folder = tmp_path / "run"
    name = "checkpoints/step-00000004"
    shutil.copytree(whole[0] / name, folder / name)
    shutil.copy(whole[0] / "config.json", folder)
    again = weights(train(student(), store, recipe=recipe(), out=folder, show=False))
    assert all(torch.equal(value, again[name]) for name, value in whole[1].items())


def test_own_temperatures_learn_and_are_resumed_bit_for_bit(store, tmp_path):
    """A temperature and its moments move when its sample is seen; the student's scale stays."""
    config = replace(recipe(**OWN), schedule=ScheduleConfig(num_steps=8, warmup_steps=1))
    first = train(student(), store, recipe=config, out=tmp_path / "whole", show=False)
    name = "checkpoints/step-00000004"
    shutil.copytree(tmp_path / "whole" / name, tmp_path / "half" / name)
    shutil.copy(tmp_path / "whole" / "config.json", tmp_path / "half")
    again = train(student(seed=8), store, recipe=config, out=tmp_path / "half", show=False)
    for name, value in weights(first).items():
        assert torch.equal(value, weights(again)[name])
    assert torch.equal(weights(first)["logit_scale"], student().module.logit_scale)
    found, resumed = (last_checkpoint(tmp_path / part) for part in ("whole", "half"))
    assert all(torch.equal(value, resumed[name]) for name, value in found.items())
    state = found["model/objective.fastclip.own.state"]
    seen = state[6] > 0
    assert state[6].sum() == 64 and (state[:2, seen] != 0.1).any(1).all()
    assert (state[:2, ~seen] == 0.1).all() and len(state[0, seen].unique()) > 8


def test_the_means_matter_and_micro_batches_do_not(store, whole):
    config = recipe()
    parts = replace(config, data=replace(config.data, micro_batch_size=3))
    again = weights(train(student(), store, recipe=parts, show=False))
    at_once = weights(train(student(), store, recipe=recipe(fastclip_gamma=1.0), show=False))
    for name, value in whole[1].items():
        torch.testing.assert_close(again[name], value, rtol=0, atol=1e-6)
    assert max((at_once[n] - value).abs().max() for n, value in whole[1].items()) > 1e-4


def test_v1_keeps_the_temperature_and_v3_learns_it(store, whole):
    kept = weights(train(student(), store, recipe=recipe(fastclip_version="v1"), show=False))
    start = student().module.logit_scale
    assert torch.equal(kept["logit_scale"], start)
    assert (whole[1]["logit_scale"] - start).abs() > 1e-3


@pytest.mark.parametrize("changes", [{}, OWN])
def test_a_step_left_out_leaves_the_means_as_they_were(store, changes):
    calls = []

    def bad(learner, _teachers):
        calls.append(1)
        return learner.image.sum() * (torch.nan if len(calls) == 2 else 0.0)

    config, dataset, learner = (
        recipe(custom={"bad": (1.0, bad)}, **changes),
        open_dataset(store),
        student(),
    )
    count = numbered_samples(dataset, config)
    stepper = Stepper(learner, config, [], accelerator_for("no"), num_samples=count)
    first, second = batches(dataset, learner, config, first=0, last=2)
    assert stepper.step(first, 1).skipped is None
    before = {name: value.clone() for name, value in stepper.module.state_dict().items()}
    seen = before["objective.fastclip.log_u"].isfinite().all(0)
    assert seen[first.numbers].all() and seen.sum() == 8
    assert stepper.step(second, 2).skipped == "loss is nan"
    after = stepper.module.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_what_it_cannot_be_used_with_is_refused(store):
    with pytest.raises(ValueError, match=r"softmax loss, and .* has a bias"):
        train(student(sigmoid=True), store, recipe=recipe(), show=False)
    with pytest.raises(ValueError, match="softmax loss"):
        Objective(fastclip=1.0, kind="sigmoid")
    with pytest.raises(ValueError, match="how many are there"):
        Objective(fastclip=1.0).build(4, [])
    summed = replace(recipe().data, captions=CaptionPolicy(kind="sum"))
    with pytest.raises(ValueError, match="one mean for each sample"):
        train(student(), store, recipe=replace(recipe(), data=summed), show=False)
