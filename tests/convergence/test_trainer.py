"""The loop on a tiny real store: it learns, repeats itself, resumes, and says what is wrong."""

import dataclasses
import json
import shutil

import pytest
import torch
from PIL import Image

from distill import Objective, train
from distill.config import DataConfig, OptimizerConfig, RunConfig, ScheduleConfig, StudentConfig
from distill.lock_config import LockConfig
from distill.run_log import read_log
from distill.starting import train_from_config
from reinforced_data import ViewPolicy, open_dataset, reinforce
from reinforced_data.testing import (
    TOKENIZER,
    TinyEncoder,
    encoded,
    sample,
    tiny_teacher,
    write_source,
)
from students import StudentSpec, TextSpec, build_student, load_student

COLOURS = {
    "red": (220, 30, 30),
    "green": (30, 200, 30),
    "blue": (30, 30, 220),
    "dark": (20, 20, 20),
    "light": (240, 240, 240),
}
VIEWS = ViewPolicy(scale=(0.5, 1.0), num_ops=0)
TAUGHT = Objective(contrastive=0.3, affinity=0.7, feature=1.0, teacher_scale=0.5)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Pictures of five colours and a store with two teachers and three views."""
    folder = tmp_path_factory.mktemp("world")
    samples = []
    for number in range(40):
        word = list(COLOURS)[number % 5]
        shade = tuple(channel + number // 5 for channel in COLOURS[word])
        picture = encoded(Image.new("RGB", (24, 16), shade))
        samples.append(sample(number, png=picture, txt=f"a {word} picture", cls=word))
    source = write_source(folder / "source", samples, samples_per_shard=16)
    teachers = [
        tiny_teacher("large", seed=1),
        tiny_teacher("small", seed=2, embed_dim=12, image_size=8),
    ]
    reinforce(
        source, folder / "store", teachers=teachers, num_views=3, policy=VIEWS, progress=False
    )
    return source, folder / "store", teachers


def tiny_student(seed=3):
    torch.manual_seed(seed)
    spec = StudentSpec(
        image="smallconv-4",
        text=TextSpec(width=16, layers=1, heads=2, context_length=8),
        embed_dim=16,
        image_size=16,
    )
    return build_student(spec, tokenizer=TOKENIZER)


def recipe(num_steps=12, **changes):
    config = RunConfig(
        data=DataConfig(batch_size=16, num_workers=0),
        objective=TAUGHT,
        optimizer=OptimizerConfig(lr=1e-2, weight_decay=0.01),
        schedule=ScheduleConfig(num_steps=num_steps, warmup_steps=2),
        log_every=1,
        save_every=4,
    )
    return dataclasses.replace(config, **changes)


def weights(student):
    return {name: value.clone() for name, value in student.state_dict().items()}


def assert_equal_bits(left, right):
    assert left.keys() == right.keys()
    for name in left:
        assert torch.equal(left[name], right[name]), name


def run(world, out=None, **changes):
    return train(tiny_student(), str(world[1]), recipe=recipe(**changes), out=out, show=False)


def steps_logged(folder):
    """Without the warnings that a busy machine may add."""
    return [record for record in read_log(folder) if "loss/total" in record]


def test_every_term_falls(world, tmp_path):
    run(world, tmp_path / "run", num_steps=60)
    records = steps_logged(tmp_path / "run")
    assert [r["step"] for r in records] == list(range(1, 61))
    for term in ("contrastive", "affinity", "feature", "total"):
        first = sum(r[f"loss/{term}"] for r in records[:5])
        last = sum(r[f"loss/{term}"] for r in records[-5:])
        assert last < 0.9 * first, term


def test_same_seed_same_bits_and_another_seed_others(world):
    first, second = weights(run(world).student), weights(run(world).student)
    assert_equal_bits(first, second)
    other = weights(run(world, seed=1).student)
    assert any(not torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize("extra", [{}, {"ema_decay": 0.9}])
def test_resuming_gives_the_bits_of_an_undisturbed_run(world, tmp_path, extra):
    whole = weights(run(world, tmp_path / "whole", **extra).student)
    interrupted = recipe(**extra)
    dataset = open_dataset(world[1])

    class StopError(Exception):
        pass

    def stop_at_seven(*_):
        calls.append(1)
        if len(calls) == 7:
            raise StopError
        return torch.zeros(())

    calls = []
    goal = dataclasses.replace(TAUGHT, custom={"stop": (0.0, stop_at_seven)})
    with pytest.raises(StopError):
        train(
            tiny_student(),
            dataset,
            recipe=dataclasses.replace(interrupted, objective=goal),
            out=tmp_path / "cut",
            show=False,
        )
    calls.extend([1] * 10)
    resumed = train(
        tiny_student(seed=99),
        dataset,
        recipe=dataclasses.replace(interrupted, objective=goal),
        out=tmp_path / "cut",
        show=False,
    )
    assert_equal_bits(whole, weights(resumed.student))
    assert [r["step"] for r in steps_logged(tmp_path / "cut")] == list(range(1, 13))


def test_a_changed_configuration_is_refused_and_named(world, tmp_path):
    run(world, tmp_path / "run")
    with pytest.raises(ValueError, match=r"schedule.num_steps: 12 -> 20"):
        run(world, tmp_path / "run", num_steps=20)


def test_result_folder_loads_and_holds_metrics_and_retention(world, tmp_path):
    source, store, teachers = world
    result = train(
        tiny_student(),
        store,
        recipe=recipe(),
        evaluate_on={"held": str(source[0])},
        teachers=teachers,
        out=tmp_path / "run",
        show=False,
    )
    assert result.retention is not None
    top1 = result.metrics["held/top1"]
    teacher = train(tiny_student(), store, recipe=recipe(), evaluate_on=str(source[0]), show=False)
    assert teacher.retention is None and teacher.metrics["top1"] == top1
    written = json.loads((tmp_path / "run" / "result.json").read_text())
    assert written["metrics"] == result.metrics and written["steps"] == 12
    assert written["retention"] == result.retention
    loaded = load_student(tmp_path / "run")
    assert_equal_bits(weights(loaded), weights(result.student))
    assert list((tmp_path / "run" / "tensorboard").iterdir())


def test_locked_text_tower_does_not_move(world, tmp_path):
    donor = tiny_student(seed=8)
    donor.save(tmp_path / "donor")
    student = tiny_student(seed=8)
    before = {n: p.detach().clone() for n, p in student.text_tower.named_parameters()}
    config = recipe(lock=LockConfig(tower="text"))
    done = train(student, world[1], recipe=config, show=False).student
    after = dict(done.text_tower.named_parameters())
    assert_equal_bits(before, {n: p.detach() for n, p in after.items()})
    assert any(
        not torch.equal(p, q)
        for p, q in zip(
            done.image_tower.parameters(), tiny_student(8).image_tower.parameters(), strict=True
        )
    )


def test_weights_of_zero_need_no_teachers(world, tmp_path):
    """The undistilled twin trains on a store that holds views alone."""
    reinforce(world[0], tmp_path / "views", teachers=(), num_views=3, policy=VIEWS, progress=False)
    plain = recipe(objective=Objective())
    alone = train(tiny_student(), tmp_path / "views", recipe=plain, show=False)
    beside = train(tiny_student(), world[1], recipe=plain, show=False)
    assert_equal_bits(weights(alone.student), weights(beside.student))
    with pytest.raises(ValueError, match="no teacher embeddings"):
        train(tiny_student(), tmp_path / "views", recipe=recipe(), show=False)


@pytest.mark.parametrize(
    "change",
    [
        {"precision": "bf16"},
        {"channels_last": True},
        {"ema_decay": 0.5},
        {"data": DataConfig(batch_size=16, micro_batch_size=5, num_workers=0)},
        {"data": DataConfig(batch_size=16, num_workers=2, teachers=("small",), views=2)},
    ],
)
def test_options_run_and_change_the_result(world, change):
    plain = weights(run(world).student)
    changed = run(world, **change).student
    different = any(not torch.equal(plain[n], v) for n, v in weights(changed).items())
    assert different or "channels_last" in change
    assert all(torch.isfinite(value).all() for value in weights(changed).values())


def test_activation_checkpointing_is_exact_or_refused(world):
    with pytest.raises(ValueError, match="cannot checkpoint activations"):
        run(world, activation_checkpointing=True)


def test_logit_scale_is_clamped(world):
    student = tiny_student()
    result = train(student, world[1], recipe=recipe(max_logit_scale=2.0), show=False)
    assert result.student.logit_scale.exp() <= 2.0 + 1e-6


def test_own_module_trains(world):
    module = TinyEncoder(seed=5)
    student = build_student(module, image_size=16, tokenizer=TOKENIZER)
    result = train(student, world[1], recipe=recipe(num_steps=30), show=False)
    assert result.student is student and result.refused == {}


def test_run_from_configuration_alone(world, tmp_path):
    config = recipe(
        student=StudentConfig(name="demo-student"),
        out=str(tmp_path / "named"),
        data=DataConfig(store=str(world[1]), batch_size=16, num_workers=0),
    )
    result = train_from_config(config, show=False)
    assert result.student.name == "named" and result.student.tokenizer.vocab_size > 10


def test_training_reads_the_view_set_that_the_configuration_names(world, tmp_path):
    _, store, teachers = world
    shutil.copytree(store.parent, tmp_path / "world")
    source, beside = tmp_path / "world" / "source", tmp_path / "world" / "store"
    strong = {"view_set": "strong", "num_views": 2, "policy": ViewPolicy(scale=(0.1, 0.3))}
    reinforce(source, beside, teachers=teachers, progress=False, **strong)
    seen = {}
    for name in (None, "default", "strong"):
        config = recipe(2)
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, view_set=name))
        student = tiny_student()
        train(student, beside, recipe=config, show=False)
        seen[name] = student.encode_image(torch.ones(1, 3, 16, 16))
    assert torch.equal(seen[None], seen["default"])
    assert not torch.equal(seen[None], seen["strong"])
    with pytest.raises(ValueError, match="no view set 'weak'"):
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, view_set="weak"))
        train(tiny_student(), beside, recipe=config, show=False)
