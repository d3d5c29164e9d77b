"""Learning from the store equals learning beside the live, frozen tower; what is locked stays."""

import copy
import json
from dataclasses import replace

import pytest
import torch

from distill import Objective, train
from distill.config import DataConfig, OptimizerConfig, RunConfig, ScheduleConfig
from distill.diverging import DivergedError, replay_step
from distill.lock_config import LockConfig
from distill.locked_students import without_locked_encoders
from distill.preparing import accelerator_for
from distill.run_log import read_log
from distill.stepping import Stepper
from distill.watching import WatchConfig
from reinforced_data import ViewPolicy, open_dataset, reinforce
from reinforced_data.testing import TOKENIZER, write_source
from students import StudentSpec, TextSpec, build_student, load_student
from teachers import load_teacher


def make(image: str, seed: int, embed_dim: int = 16):
    torch.manual_seed(seed)
    spec = StudentSpec(
        image=image,
        text=TextSpec(width=16, layers=1, heads=2, context_length=8),
        embed_dim=embed_dim,
        image_size=16,
    )
    return build_student(spec, tokenizer=TOKENIZER, name=f"{image}-{seed}")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A teacher's folder, and a float32 store of one whole view."""
    folder = tmp_path_factory.mktemp("locked")
    teacher = make("smallconv-4", 1).eval()
    teacher.save(folder / "teacher")
    reinforce(
        write_source(folder / "source", 24),
        folder / "store",
        teachers=load_teacher(teacher),
        num_views=1,
        policy=ViewPolicy(scale=(1.0, 1.0), num_ops=0),
        codec="float32",
        progress=False,
    )
    return folder


def recipe(world, out, **changes):
    base = RunConfig(
        data=DataConfig(batch_size=8, num_workers=0),
        objective=Objective(contrastive=0.5, affinity=0.5, teacher_scale=0.5),
        optimizer=OptimizerConfig(lr=1e-3, eps=1e-4),
        schedule=ScheduleConfig(num_steps=6, warmup_steps=0),
        out=str(out),
        log_every=1,
    )
    return replace(base, **changes)


def losses(out):
    return [line["loss/total"] for line in read_log(out) if "loss/total" in line]


@pytest.mark.parametrize("side", ["image", "text"])
@pytest.mark.parametrize("micro_batch_size", [0, 3])
def test_training_from_the_store_is_training_with_the_live_tower(
    world, tmp_path, side, micro_batch_size
):
    """LiT and locked-text tuning, six steps, to 1e-6; the teacher is loaded at the end."""
    lock = LockConfig(**{f"stored_{side}": str(world / "teacher")})
    data = DataConfig(batch_size=8, num_workers=0, micro_batch_size=micro_batch_size)
    config = recipe(world, tmp_path / "stored", lock=lock, data=data)
    dataset = open_dataset(world / "store")
    student = make("smallconv-2", 5)
    live = without_locked_encoders(copy.deepcopy(student), dataset, config).completed()
    locked = {n: p.detach().clone() for n, p in live.named_parameters() if f".{side}." in n}
    stored = train(student, dataset, recipe=config, show=False).student
    beside = replace(config, lock=LockConfig(tower=side), out=str(tmp_path / "live"))
    trained = train(live, dataset, recipe=beside, show=False).student
    torch.testing.assert_close(
        losses(tmp_path / "stored"), losses(tmp_path / "live"), rtol=1e-6, atol=1e-6
    )
    theirs = dict(trained.named_parameters())
    for name, value in stored.named_parameters():
        torch.testing.assert_close(value, theirs[name], rtol=1e-6, atol=1e-6, msg=name)
        if name in locked:
            assert torch.equal(value, locked[name]) and torch.equal(theirs[name], locked[name])
    again = load_student(tmp_path / "stored")
    pixels, texts = torch.rand(3, 3, 16, 16), ["a red picture", "blue", "of a number"]
    teacher = load_student(world / "teacher")
    weights, kept = again.state_dict(), stored.state_dict()
    assert weights.keys() == kept.keys()
    assert all(torch.equal(weights[name], kept[name]) for name in kept)
    with torch.no_grad():
        torch.testing.assert_close(again.encode_image(pixels), stored.encode_image(pixels))
        torch.testing.assert_close(again.encode_text(texts), stored.encode_text(texts))
        if side == "image":
            torch.testing.assert_close(again.encode_image(pixels), teacher.encode_image(pixels))
        else:
            torch.testing.assert_close(again.encode_text(texts), teacher.encode_text(texts))


def test_a_dump_replays_what_was_read_from_the_store(world, tmp_path):
    strict = WatchConfig(spike_factor=1e-9, min_history=2, window=2, max_skips=2)
    config = recipe(
        world,
        tmp_path,
        lock=LockConfig(stored_image=str(world / "teacher")),
        optimizer=OptimizerConfig(lr=0.5),
        schedule=ScheduleConfig(num_steps=60, warmup_steps=0),
        watch=strict,
    )
    dataset = open_dataset(world / "store")
    with pytest.raises(DivergedError, match="2 steps in a row"):
        train(make("smallconv-2", 5), dataset, recipe=config, show=False)
    (dump,) = tmp_path.glob("diverged-step-*")
    record = json.loads((dump / "dump.json").read_text())
    found = replay_step(dump, make("smallconv-2", 5), dataset)
    assert {name: str(value) for name, value in found.items()} == record["values"]


@pytest.mark.parametrize(
    "lock", [{"tower": "text"}, {"tower": "image"}, {"stored_image": "teacher"}]
)
@pytest.mark.parametrize("ema_decay", [None, 0.9])
def test_what_a_run_locked_learns_in_the_next_one(world, tmp_path, lock, ema_decay):
    lock = {k: str(world / v) if k.startswith("stored") else v for k, v in lock.items()}
    config = recipe(world, tmp_path, lock=LockConfig(**lock), ema_decay=ema_decay)
    dataset = open_dataset(world / "store")
    student = train(make("smallconv-2", 5), dataset, recipe=config, show=False).student
    before = {name: value.detach().clone() for name, value in student.named_parameters()}
    train(student, dataset, recipe=recipe(world, ""), show=False)
    for name, value in student.named_parameters():
        assert not torch.equal(value, before[name]), name


def test_a_locked_encoder_is_in_neither_module_nor_optimizer(world, tmp_path):
    config = recipe(world, "", lock=LockConfig(stored_image=str(world / "teacher")))
    student = make("smallconv-2", 5)
    text = {name for name, _ in student.text_tower.named_parameters()}
    dataset = open_dataset(world / "store")
    partial = without_locked_encoders(student, dataset, config)
    stepper = Stepper(partial, config, [16], accelerator_for("no"))
    learned = sum(len(group["params"]) for group in stepper.optimizer.param_groups)
    assert learned == len(text) + 1  # and the scale
    assert sum(1 for _ in partial.parameters()) == learned


@pytest.mark.parametrize("side", ["image", "text"])
def test_what_is_not_locked_has_rates_of_its_own(world, side):
    """A stored encoder is not there to be asked which weights are its own."""
    other = {"image": "text", "text": "image"}[side]
    lock = LockConfig(**{f"stored_{side}": str(world / "teacher"), f"{side}_head": "linear"})
    rates = {f"{other}_lr": 1e-4, f"{side}_lr": 2e-4}
    config = recipe(world, "", lock=lock, optimizer=OptimizerConfig(lr=1e-3, **rates))
    dataset = open_dataset(world / "store")
    partial = without_locked_encoders(make("smallconv-2", 5), dataset, config)
    stepper = Stepper(partial, config, [16], accelerator_for("no"))
    found = {id(p): g["lr_scale"] for g in stepper.optimizer.param_groups for p in g["params"]}
    for name, value in partial.module.named_parameters():
        expected = {other: 0.1, side: 0.2}.get(name.partition(".")[0], 1.0)
        assert found[id(value)] == pytest.approx(expected), name


@pytest.mark.parametrize(
    ("lock", "optimizer", "said"),
    [
        ({"stored_image": "teacher"}, {"image_lr": 1e-4}, "image side .* is locked"),
        ({"tower": "text"}, {"text_layer_decay": 0.7}, "text side .* is locked"),
        (
            {"stored_image": "teacher", "image_head": "linear"},
            {"image_layer_decay": 0.7},
            "a head learns alone",
        ),
    ],
)
def test_rates_of_what_does_not_learn_are_refused(world, lock, optimizer, said):
    lock = {k: str(world / v) if k.startswith("stored") else v for k, v in lock.items()}
    config = recipe(
        world, "", lock=LockConfig(**lock), optimizer=OptimizerConfig(lr=1e-3, **optimizer)
    )
    student = make("smallconv-2", 5)
    if config.lock.sides:
        student = without_locked_encoders(student, open_dataset(world / "store"), config)
    with pytest.raises(ValueError, match=said):
        Stepper(student, config, [16], accelerator_for("no"))
