"""Bad steps are left out and change nothing; too many end the run; dead ends are said."""

import dataclasses
import json
import math
import shutil

import pytest
import torch
from torch import Tensor, nn

from distill import Objective, merge, train
from distill.config import DataConfig, OptimizerConfig, RunConfig, ScheduleConfig
from distill.diverging import DivergedError, replay_step
from distill.feeding import batches, teacher_dims
from distill.health import Health, target_entropy
from distill.preparing import accelerator_for
from distill.run_log import read_log
from distill.stepping import Stepper
from distill.watching import Watch, WatchConfig
from reinforced_data import open_dataset, reinforce
from reinforced_data.testing import TOKENIZER, TinyEncoder, tiny_teacher, write_source
from students import build_student
from teachers.contract import Embeddings


class Normed(TinyEncoder):
    """A student with running statistics."""

    def __init__(self) -> None:
        super().__init__(seed=5)
        self.norm = nn.BatchNorm1d(16)

    def encode_image(self, images: Tensor, /) -> Tensor:
        return self.norm(super().encode_image(images))


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    source = write_source(folder / "source", 40, samples_per_shard=7)
    reinforce(source, folder / "store", teachers=tiny_teacher("a"), num_views=2, progress=False)
    return folder / "store"


def student():
    return build_student(Normed(), image_size=16, tokenizer=TOKENIZER)


def recipe(**changes) -> RunConfig:
    config = RunConfig(
        data=DataConfig(batch_size=12, num_workers=0),
        objective=Objective(contrastive=0.3, affinity=0.7),
        optimizer=OptimizerConfig(lr=1e-2),
        schedule=ScheduleConfig(num_steps=10, warmup_steps=1),
        ema_decay=0.9,
        log_every=1,
        save_every=4,
    )
    return dataclasses.replace(config, **changes)


def spoiled(at: tuple[int, ...], value: float) -> Objective:
    """Adds `value` to the loss of the given steps."""
    calls = []

    def term(rows: Embeddings, _: object) -> Tensor:
        calls.append(1)
        return rows.image.sum() * (value if len(calls) in at else 0.0)

    return Objective(contrastive=0.3, affinity=0.7, custom={"spoil": (1.0, term)})


def everything(stepper: Stepper) -> dict[str, Tensor]:
    found = {
        f"{part}/{name}": value.clone()
        for part, module in stepper.modules().items()
        for name, value in module.state_dict().items()
    }
    for index, entries in stepper.optimizer.state_dict()["state"].items():
        found |= {f"optimizer/{index}/{k}": torch.as_tensor(v).clone() for k, v in entries.items()}
    return found


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("micro_batch_size", [0, 5])
def test_a_bad_step_changes_nothing_at_all(store, value, micro_batch_size):
    dataset = open_dataset(store)
    config = recipe(objective=spoiled((3,), value))
    config = dataclasses.replace(
        config, data=dataclasses.replace(config.data, micro_batch_size=micro_batch_size)
    )
    stepper = Stepper(student(), config, teacher_dims(dataset, config), accelerator_for("no"))
    loader = batches(dataset, stepper.student, config, first=0, last=4)
    for step, batch in enumerate(loader, start=1):
        before = everything(stepper)
        _, skipped = stepper.step(batch, step)
        after = everything(stepper)
        same = [
            name for name, found in after.items() if torch.equal(found, before.get(name, found))
        ]
        if step == 3:
            assert skipped is not None and "loss is" in skipped
            assert set(same) == set(after) == set(before)
        else:
            assert skipped is None
            assert "model/student.module.norm.running_mean" not in same
            assert "model/student.module.image" not in same
        assert all(torch.isfinite(found).all() for found in after.values())


def test_a_run_goes_on_after_bad_steps_and_writes_them_down(store, tmp_path):
    result = train(
        student(),
        store,
        recipe=recipe(objective=spoiled((3, 7), math.nan)),
        out=tmp_path / "run",
        show=False,
    )
    assert all(torch.isfinite(value).all() for value in result.student.state_dict().values())
    lines = (tmp_path / "run" / "skipped-steps.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert [r["step"] for r in records] == [3, 7]
    assert records[0]["skipped"] == "loss is nan" and len(records[0]["keys"][0]) == 12
    logged = read_log(tmp_path / "run")
    assert [r["step"] for r in logged if "loss/total" in r] == [1, 2, 4, 5, 6, 8, 9, 10]
    # A busy machine may also warn of waiting for data; that is not about these steps.
    assert [r["step"] for r in logged if "left out" in r.get("warning", "")] == [3, 7]


def test_a_spike_is_left_out_and_what_is_ordinary_is_not():
    watch = Watch(WatchConfig(min_history=4))
    for loss, norm in ((5.0, 1.0), (4.8, 1.3), (4.9, 0.8), (4.7, 1.1)):
        assert watch.judge(loss, norm) is None
        watch.remember(loss, norm, skipped=False)
    assert watch.judge(9.0, 9.0) is None
    assert watch.judge(4.7, 12.0) == "grad_norm 12 is above 11.55 (median of 4: 1.05)"
    assert "loss 50 is above" in (watch.judge(50.0, 1.0) or "")
    again = Watch(WatchConfig(min_history=4))
    again.restore(json.loads(json.dumps(watch.as_json())))
    assert again.judge(4.7, 12.0) == watch.judge(4.7, 12.0) is not None
    with pytest.raises(ValueError, match="watch needs spike_factor > 0"):
        WatchConfig(spike_factor=0.0)


def test_too_many_in_a_row_go_back_and_leave_a_dump_that_replays(store, tmp_path):
    """Every step above the median counts as a spike here, so the losses stay real numbers."""
    strict = WatchConfig(spike_factor=1e-9, min_history=2, window=2, max_skips=2)
    config = recipe(
        watch=strict,
        optimizer=OptimizerConfig(lr=0.5),
        schedule=ScheduleConfig(num_steps=60, warmup_steps=0),
        save_every=1,
        keep_checkpoints=60,
    )
    failing = student()
    with pytest.raises(DivergedError, match="2 steps in a row") as caught:
        train(failing, store, recipe=config, out=tmp_path / "run", show=False)
    (dump,) = (tmp_path / "run").glob("diverged-step-*")
    assert str(dump) in str(caught.value)
    record = json.loads((dump / "dump.json").read_text())
    found = replay_step(dump, student(), open_dataset(store))
    assert {name: str(value) for name, value in found.items()} == record["values"]
    # Another batch has another loss: equality says something.
    other = json.loads((tmp_path / "run" / "skipped-steps.jsonl").read_text().splitlines()[0])
    assert other["values"] != record["values"]


def test_a_run_is_of_the_store_that_it_was_begun_with(store, tmp_path):
    train(student(), store, recipe=recipe(), out=tmp_path / "run", show=False)
    other = shutil.copytree(store, store.parent / "other")
    assert json.loads((tmp_path / "run" / "config.json").read_text())["data"]["store"] == str(store)
    with pytest.raises(ValueError, match=r"another configuration.*data\.store"):
        train(student(), other, recipe=recipe(), out=tmp_path / "run", show=False)
    with pytest.raises(ValueError, match="is in the training data of"):
        merge(
            [tmp_path / "run", tmp_path / "run"],
            validation=str(store.parent / "source"),
            statistics_on=str(store.parent / "source"),
        )


@pytest.mark.parametrize("content", [None, "{}", "[]", "no JSON"])
def test_a_teacher_s_metrics_that_are_none_are_refused_before_the_first_step(
    store, tmp_path, content
):
    path = tmp_path / "teacher.json"
    if content is not None:
        path.write_text(content)
    config = recipe(compare_to=str(path))
    with pytest.raises(ValueError, match=r"compare_to: .*write it with `distill evaluate"):
        train(student(), store, recipe=config, out=tmp_path / "run", show=False)
    assert not (tmp_path / "run").exists()


def test_a_dump_with_custom_terms_asks_for_them(store, tmp_path):
    config = recipe(
        objective=spoiled(tuple(range(3, 99)), math.nan), watch=WatchConfig(max_skips=2)
    )
    with pytest.raises(DivergedError, match="loss is nan"):
        train(student(), store, recipe=config, out=tmp_path / "run", show=False)
    (dump,) = (tmp_path / "run").glob("diverged-step-*")
    with pytest.raises(ValueError, match=r"custom terms \(spoil\); their code is the caller's"):
        replay_step(dump, student(), open_dataset(store))


def test_unwatched_a_bad_step_is_taken_and_the_next_one_fails(store):
    config = recipe(objective=spoiled((3,), math.nan), watch=WatchConfig(enabled=False))
    with pytest.raises(ValueError, match="logit_scale must be finite"):
        train(student(), store, recipe=config, show=False)


def unit(count: int, width: int) -> Tensor:
    torch.manual_seed(0)
    return nn.functional.normalize(torch.randn(count, width), dim=1)


def test_entropy_of_targets_between_one_hot_and_uniform():
    rows = unit(64, 32)
    scales = [0.0, 4.0, 1000.0]
    found = [target_entropy(Embeddings(rows, rows, torch.tensor(s), None), 1.0) for s in scales]
    assert found[0] == pytest.approx(1.0, abs=1e-5) and 0.05 < (found[1] or 0) < 0.95
    assert found[2] == pytest.approx(0.0, abs=1e-4)


@pytest.mark.parametrize(("factor", "said"), [(1e-4, "nearly uniform"), (30.0, "are one-hot")])
def test_dead_affinity_targets_are_said_once(store, tmp_path, factor, said, capsys):
    config = recipe(objective=Objective(affinity=1.0, teacher_scale=factor))
    result = train(student(), store, recipe=config, out=tmp_path / "run", show=False)
    # A busy machine may add that it waits for data.
    (text,) = [text for text in result.warnings if "affinity" in text]
    assert said in text and f"objective.teacher_scale (now {factor})" in text
    warned = [r for r in read_log(tmp_path / "run") if r.get("warning") == text]
    assert len(warned) == 1 and said in " ".join(capsys.readouterr().err.split())


def test_collapsed_scale_and_starvation():
    health = Health(Objective())
    assert health.warnings(logit_scale=14.0, share_waited=0.9, teachers=()) == []
    (scale,) = health.warnings(logit_scale=1.2, share_waited=0.9, teachers=())
    assert "collapsed to 1.20" in scale
    (data,) = health.warnings(logit_scale=1.1, share_waited=0.9, teachers=())
    assert "90 % of the time goes by waiting for data" in data
    assert health.warnings(logit_scale=1.0, share_waited=0.9, teachers=()) == []
    assert len(health.all) == 2
