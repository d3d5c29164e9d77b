"""What a run takes from the student it is given: its kind of loss, and its name."""

import json
from dataclasses import replace

import pytest
import torch

from distill import Objective, train
from distill.config import DataConfig, OptimizerConfig, RunConfig, ScheduleConfig
from distill.recipes import find_recipe
from reinforced_data import reinforce
from reinforced_data.testing import TOKENIZER, sample, write_source
from students import StudentSpec, TextSpec, build_student

RECIPE = RunConfig(
    student=replace(find_recipe("mobileclip2").student, text_from="somewhere"),
    data=DataConfig(batch_size=8, num_workers=0),
    optimizer=OptimizerConfig(lr=1e-3),
    schedule=ScheduleConfig(num_steps=2, warmup_steps=1),
    log_every=1,
)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("student")
    write_source(folder / "source", 8)
    reinforce(folder / "source", folder / "store", teachers=(), num_views=1, progress=False)
    return folder / "store"


def student(kind):
    torch.manual_seed(0)
    text = TextSpec(width=16, layers=1, heads=2, context_length=8)
    spec = StudentSpec(image="smallconv-4", text=text, embed_dim=16, image_size=16)
    return build_student(spec, tokenizer=TOKENIZER, kind=kind, name=f"my-{kind}")


def losses(store, out, kind, objective):
    train(student(kind), store, recipe=replace(RECIPE, objective=objective), out=out, show=False)
    records = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [record["loss/total"] for record in records if "loss/total" in record]


def test_a_student_is_trained_with_the_loss_it_was_built_for(store, tmp_path):
    own = losses(store, tmp_path / "own", "sigmoid", Objective())
    assert own == losses(store, tmp_path / "sigmoid", "sigmoid", Objective(kind="sigmoid"))
    other = losses(store, tmp_path / "softmax", "sigmoid", Objective(kind="softmax"))
    assert abs(own[0] - other[0]) > 0.1
    plain = losses(store, tmp_path / "plain", "softmax", Objective())
    assert plain == losses(store, tmp_path / "same", "softmax", Objective(kind="softmax"))


def test_the_sigmoid_loss_on_a_student_without_a_bias_is_refused_before_training(store, tmp_path):
    with pytest.raises(ValueError, match=r"my-softmax has none: build it with .*kind='sigmoid'"):
        losses(store, tmp_path / "out", "softmax", Objective(kind="sigmoid"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("labels", [("207", "3"), ("n01440764", "n01443537")])
def test_labels_that_are_no_names_are_refused_before_the_first_step(store, tmp_path, labels):
    samples = [sample(number, cls=labels[number % 2]) for number in range(4)]
    write_source(tmp_path / "held", samples)
    steps = []

    def count(*_):
        steps.append(1)
        return torch.zeros(())

    goal = Objective(custom={"count": (0.0, count)})
    run = {"recipe": replace(RECIPE, objective=goal), "out": tmp_path / "out", "show": False}
    with pytest.raises(ValueError, match=r"labels of .*held look like numbers or ids"):
        train(student("softmax"), store, evaluate_on={"held": str(tmp_path / "held")}, **run)
    assert not steps and not (tmp_path / "out").exists()
    train(student("softmax"), store, **run)
    assert len(steps) == 2  # what would have been taken


def test_a_run_names_the_student_it_trained_and_not_the_recipes(store, tmp_path):
    losses(store, tmp_path / "out", "softmax", Objective())
    written = json.loads((tmp_path / "out" / "config.json").read_text())["student"]
    assert (written["name"], written["text_from"]) == ("my-softmax", None)
