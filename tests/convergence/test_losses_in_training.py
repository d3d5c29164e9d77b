"""All distillation terms in the trainer: standardised once, resumed exactly, left behind on export.

And every row of the ladder trains: `benchmarks/ladder.py` spends hours on them.
"""

import dataclasses
import math
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from distill import Objective, train
from distill.cli.parsing import parse
from distill.config import DataConfig, OptimizerConfig, RunConfig, ScheduleConfig
from distill.losses import Moments, phi_s
from distill.recipes.demo import SPECS
from distill.run_log import read_log
from distill.standardizing import FILE, fit_standardization
from distill.starting import train_from_config
from reinforced_data import caption, open_dataset, reinforce
from reinforced_data.testing import TOKENIZER, WORDS, TinyEncoder, tiny_teacher, write_source
from students import build_student
from teachers import WordTokenizer, load_teacher

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from inheritance import STARTS, Row, config_of
from ladder import ALL_ROWS
from ladder_rows import Place
from ladder_tokens import ATTENDED, VIT
from ladder_world import World

TAUGHT = Objective(
    contrastive=0.3,
    affinity=0.5,
    feature=1.0,
    interactive=0.5,
    relational=0.5,
    feature_adapter="mlp",
    feature_standardize=True,
    feature_teacher_dropping=0.5,
)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Two teachers of different widths."""
    folder = tmp_path_factory.mktemp("losses")
    source = write_source(folder / "source", 24)
    teachers = [tiny_teacher("teacher-a", seed=1), tiny_teacher("teacher-b", seed=2, embed_dim=12)]
    reinforce(source, folder / "store", teachers=teachers, num_views=3, progress=False)
    return folder / "store"


def learner(seed=5):
    return build_student(TinyEncoder(seed=seed), image_size=16, tokenizer=TOKENIZER)


def recipe(objective=TAUGHT, num_steps=6):
    return RunConfig(
        data=DataConfig(batch_size=8, num_workers=0),
        objective=objective,
        optimizer=OptimizerConfig(lr=1e-2),
        schedule=ScheduleConfig(num_steps=num_steps, warmup_steps=1),
        log_every=1,
        save_every=2,
    )


def test_the_fit_is_that_of_all_stored_rows(store):
    dataset = open_dataset(store)
    loader = dataset.loader(
        preprocess=learner().preprocess,
        tokenizer=TOKENIZER,
        batch_size=24,
        num_steps=40,
        teachers=("teacher-b",),
    )
    passes = [batch.teachers[0] for batch in loader]  # a step is a pass; all see every view
    views = {tuple(row.tolist()): row for rows in passes for row in rows.image}
    stored = {"image": torch.stack(list(views.values())), "text": passes[0].text}
    assert len(stored["image"]) == 24 * 3 and len(stored["text"]) == 24
    for modality, rows in stored.items():
        moments = Moments(12)
        moments.add(rows)
        expected = phi_s(moments)
        found = fit_standardization(dataset, teacher="teacher-b", modality=modality)
        torch.testing.assert_close(found.mean, expected.mean, rtol=0, atol=1e-12)
        assert abs(found.deviation / expected.deviation - 1) < 1e-9
        few = fit_standardization(dataset, teacher="teacher-b", modality=modality, max_rows=10)
        assert 0.001 < (few.mean - found.mean).norm() < 0.5


def test_an_unknown_teacher_is_refused(store):
    with pytest.raises(ValueError, match="teacher-a"):
        fit_standardization(open_dataset(store), teacher="teacher-q")


def test_all_terms_resume_to_the_same_bits_and_stay_out_of_the_student(store, tmp_path):
    class StopError(Exception):
        pass

    def stop_at_five(*_):
        calls.append(1)
        if len(calls) == 5:
            raise StopError
        return torch.zeros(())

    calls = []
    goal = dataclasses.replace(TAUGHT, custom={"stop": (0.0, stop_at_five)})
    with pytest.raises(StopError):
        train(learner(), store, recipe=recipe(goal), out=tmp_path / "cut", show=False)
    kept = (tmp_path / "cut" / FILE).read_bytes()
    train(learner(seed=9), store, recipe=recipe(goal), out=tmp_path / "cut", show=False)
    assert (tmp_path / "cut" / FILE).read_bytes() == kept
    train(learner(), store, recipe=recipe(), out=tmp_path / "whole", show=False)
    whole, cut = (read_log(tmp_path / name) for name in ("whole", "cut"))
    for term in ("feature", "interactive", "relational", "total"):
        values = [record[f"loss/{term}"] for record in whole]
        assert values == [record[f"loss/{term}"] for record in cut]
        assert len(set(values)) == len(values)

    checkpoint = load_file(tmp_path / "whole/checkpoints/step-00000006/tensors.safetensors")
    trained = {name for name in checkpoint if name.startswith("model/objective.")}
    assert {name.split(".")[1] for name in trained} == {"feature", "interactive"}
    exported = load_file(tmp_path / "whole/model.safetensors")
    assert set(exported) == set(TinyEncoder().state_dict())


def test_micro_batches_give_the_same_terms(store, tmp_path):
    logs = []
    for size in (0, 3):
        config = recipe(num_steps=3)
        config = dataclasses.replace(
            config, data=dataclasses.replace(config.data, micro_batch_size=size)
        )
        train(learner(), store, recipe=config, out=tmp_path / str(size), show=False)
        logs.append(read_log(tmp_path / str(size)))
    for whole, cut in zip(*logs, strict=True):
        for term in ("affinity", "feature", "interactive", "relational"):
            assert abs(whole[f"loss/{term}"] - cut[f"loss/{term}"]) < 1e-4


def test_the_command_line_sets_every_option():
    words = (
        "--objective.interactive 1.5 --objective.relational 0.5 --objective.feature-standardize "
        "--objective.feature-adapter mlp --objective.relational-kind distance "
        "--objective.feature-teacher-dropping 0.5 --student.kind sigmoid"
    )
    config = parse(RunConfig, "train", words.split(), default=recipe(Objective()))
    assert config.student.kind == "sigmoid"
    assert config.objective == Objective(
        interactive=1.5,
        relational=0.5,
        feature_standardize=True,
        feature_adapter="mlp",
        relational_kind="distance",
        feature_teacher_dropping=0.5,
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Both teachers of the ladder, untrained, and a store of theirs."""
    folder, tokenizer = tmp_path_factory.mktemp("ladder"), WordTokenizer(WORDS, 12)
    teachers = []
    for name, spec in (("teacher-a", "demo-teacher-large"), ("teacher-b", "demo-teacher-small")):
        student = build_student(SPECS[spec], tokenizer=tokenizer, name=name)
        student.save(folder / name)
        teachers.append(load_teacher(student))
    source = write_source(folder / "source", 24)
    reinforce(source, folder / "store", teachers=teachers, num_views=2, progress=False)
    caption(folder / "store", "rules", name="rules", num_captions=2, teachers=teachers)
    return Place(
        store=str(folder / "store"),
        donor=str(folder / "teacher-a"),
        other=str(folder / "teacher-b"),
        splits={},
        runs=folder / "runs",
        teaching=1.5,
    )


def ladder_rows() -> Iterator[object]:
    """Every row; of those that vary the same thing the first is quick, the others are long proofs.

    Those that go by a stored attention read a store of their own (ladder_world.py).
    """
    seen: set[str] = set()
    for name in ALL_ROWS:
        if not name.startswith(ATTENDED):
            family = name.partition("-")[0]
            yield pytest.param(name, marks=pytest.mark.slow if family in seen else ())
            seen.add(family)


@pytest.mark.parametrize("name", ladder_rows())
def test_every_row_of_the_ladder_trains(name, place, tmp_path):
    config = ALL_ROWS[name](place, 2)
    toy = dataclasses.replace(config.data, batch_size=8, num_workers=0)
    toy = dataclasses.replace(config, data=toy, out=str(tmp_path / "run"), log_every=1)
    # Rows of fewer tokens take as many steps more as the same work allows.
    assert train_from_config(toy, show=False).steps == toy.schedule.num_steps
    first, *_, last = [line for line in read_log(tmp_path / "run") if "loss/total" in line]
    terms = {key.removeprefix("loss/") for key in first if key.startswith("loss/")}
    weights = toy.objective.weights()
    assert {term for term, weight in weights.items() if weight} <= terms
    assert first["loss/total"] != last["loss/total"]


def world_of(place):
    """The ladder's world over what `place` has; validated on the pictures that were trained on."""
    return World(
        name="toy",
        folder=place.runs,
        train="",
        store=Path(place.store),
        teachers=[RunConfig(out=place.donor), RunConfig(out=place.other)],
        splits={"validation": str(Path(place.store).parent / "source")},
        teacher_views={},
    )


# "learned" starts from a teacher trained with masks: tests/faults/test_masks.py has that path.
@pytest.mark.parametrize("start", ["random", "text", "magnitude", "taylor"])
def test_every_start_of_the_inheritance_table_trains_and_is_followed(start, place, tmp_path):
    config = config_of(world_of(place), start, True, 20)
    toy = dataclasses.replace(config.data, batch_size=8, num_workers=0)
    schedule = config.schedule.of_length(2)
    toy = dataclasses.replace(config, data=toy, schedule=schedule, out=str(tmp_path / "run"))
    assert train_from_config(toy, show=False).steps == 2
    log = read_log(tmp_path / "run")
    assert [x["step"] for x in log if "validation/contrastive_loss" in x] == [1, 2]


def test_starts_differ_and_steps_are_counted_to_the_goal(place):
    world = world_of(place)
    made = [config_of(world, start, distill, 20) for start in STARTS for distill in (False, True)]
    assert len({str(config) for config in made}) == 2 * len(STARTS)
    curves = [[(10, 3.0), (20, 2.0), (30, 2.5)], [(10, 3.0), (20, 2.6), (30, 2.5)]]
    row = Row(name="x", rate=1.0, curves=curves, top1=[0.0, 0.0])
    assert row.steps_to([2.5, 2.4]) == [20, math.inf]


@pytest.mark.slow
def test_the_rows_of_a_stored_attention_train_on_the_store_that_the_ladder_writes(place, tmp_path):
    """A ViT trained for its attention, a store with it, and the two rows, in real processes."""

    def toy(config: RunConfig, out: Path | str) -> RunConfig:
        small = dataclasses.replace(config.data, batch_size=8, num_workers=0)
        return dataclasses.replace(
            config, data=small, out=str(out), log_every=1, evaluate_on={}, evaluate_every=0
        )

    source = str(Path(place.store).parent / "source")
    world = dataclasses.replace(world_of(place), folder=tmp_path, train=source)
    store = world.store_attended(
        lambda where, steps: toy(ALL_ROWS[VIT](where, steps), ""), 2, 1, Console(quiet=True)
    )
    names = [teacher.name for teacher in open_dataset(store).teachers]
    assert names == ["teacher-a", "teacher-b", "attention-teacher"]
    for name in (name for name in ALL_ROWS if name.startswith(ATTENDED)):
        row = ALL_ROWS[name](world.place(store, teaching=place.teaching), 10)
        assert train_from_config(toy(row, tmp_path / name), show=False).refused == {}
        records = [record for record in read_log(tmp_path / name) if "loss/total" in record]
        # Half of 64 patches and the class token; then, for the last tenth, all.
        assert {record["tokens/image"] for record in records[:9]} == {33}
        assert records[-1]["tokens/image"] == 65


def test_a_damaged_or_unwritable_standardization_is_named(store, tmp_path):
    out = tmp_path / "run"
    train(learner(), store, recipe=recipe(num_steps=2), out=out, show=False)
    (out / FILE).write_bytes(b"half a f")
    with pytest.raises(ValueError, match=f"{FILE} cannot be read .*remove it"):
        train(learner(), store, recipe=recipe(num_steps=2), out=out, show=False)
    (out / FILE).unlink()  # fitted again, to the same
    train(learner(), store, recipe=recipe(num_steps=2), out=out, show=False)
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(ValueError, match=f"{FILE} cannot be written"):
        train(learner(), store, recipe=recipe(), out=blocked / "run", show=False)
