"""Several students from one pass over a store = each of them alone, bit for bit."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from distill import Objective, train, train_several
from distill.cli import main
from distill.config import DataConfig, OptimizerConfig, RunConfig, ScheduleConfig, StudentConfig
from distill.diverging import DivergedError
from distill.mask_config import MaskConfig
from distill.run_log import read_log
from distill.watching import WatchConfig
from reinforced_data import reinforce
from reinforced_data.reading.batches import BatchDataset
from reinforced_data.testing import TOKENIZER, TinyEncoder, tiny_teacher, write_source
from students import StudentSpec, TextSpec, build_student

SPEC = StudentSpec(
    image="smallconv-4",
    text=TextSpec(width=16, layers=1, heads=2, context_length=TOKENIZER.context_length),
    embed_dim=16,
    image_size=16,
)


def students():
    """A matrix each way, a convolution with BatchNorm, and a wider matrix."""
    torch.manual_seed(1)
    return [
        build_student(TinyEncoder(seed=5), image_size=16, tokenizer=TOKENIZER),
        build_student(SPEC, tokenizer=TOKENIZER),
        build_student(TinyEncoder(24, seed=6), image_size=16, tokenizer=TOKENIZER),
    ]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("several")
    source = write_source(folder / "source", 24, samples_per_shard=10)
    teachers = [tiny_teacher("a", seed=1), tiny_teacher("b", seed=2, embed_dim=12)]
    reinforce(source, folder / "store", teachers=teachers, num_views=2, progress=False)
    return folder / "store"


def configs(store, out) -> list[RunConfig]:
    """What differs is all that may."""
    one = RunConfig(
        data=DataConfig(store=str(store), batch_size=8, num_workers=0),
        objective=Objective(contrastive=0.3, affinity=0.7, feature=1.0),
        optimizer=OptimizerConfig(lr=1e-2),
        schedule=ScheduleConfig(num_steps=6, warmup_steps=1),
        out=str(out / "a"),
        log_every=1,
        save_every=2,
        keep_checkpoints=9,
    )
    two = replace(
        one,
        out=str(out / "b"),
        objective=Objective(affinity=1.0),
        data=replace(one.data, micro_batch_size=3),
        schedule=replace(one.schedule, warmup_steps=3),
        ema_decay=0.9,
        log_every=2,
        save_every=3,
    )
    optimizer = OptimizerConfig(name="lion", lr=1e-3)
    return [one, two, replace(one, out=str(out / "c"), optimizer=optimizer)]


def weights(student) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in student.module.state_dict().items()}


@pytest.fixture(scope="module")
def alone(store, tmp_path_factory):
    """Each by itself: weights, and the losses of its log."""
    out = tmp_path_factory.mktemp("alone")
    pairs = zip(students(), configs(store, out), strict=True)
    done = [train(s, store, recipe=config, out=config.out, show=False) for s, config in pairs]
    return [weights(result.student) for result in done], losses(store, out)


def losses(store, out):
    # Warnings are in the log too; that of waiting for data depends on the machine.
    every = [read_log(out / name) for name in "abc"]
    return [[(r["step"], r["loss/total"]) for r in rs if "loss/total" in r] for rs in every]


def test_each_learns_as_it_would_alone_and_each_batch_is_read_once(store, alone, tmp_path):
    read = []
    rows = BatchDataset.rows

    def counted(self, step):
        read.append(step)
        return rows(self, step)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BatchDataset, "rows", counted)
        done = train_several(configs(store, tmp_path), students=students(), show=False)
    assert read == list(range(6))
    for result, expected in zip(done, alone[0], strict=True):
        assert all(torch.equal(v, expected[n]) for n, v in weights(result.student).items())
    assert losses(store, tmp_path) == alone[1]
    for name, expected in zip("abc", alone[0], strict=True):
        saved = load_file(tmp_path / name / "model.safetensors")
        assert all(torch.equal(v, expected[n]) for n, v in saved.items())
        assert json.loads((tmp_path / name / "result.json").read_text())["steps"] == 6


def test_runs_that_stopped_at_different_steps_go_on_to_the_same_bits(store, alone, tmp_path):
    train_several(configs(store, tmp_path / "whole"), students=students(), show=False)
    for name, step in (("a", 4), ("b", 3)):  # c has nothing yet
        folder = f"{name}/checkpoints/step-{step:08d}"
        shutil.copytree(tmp_path / "whole" / folder, tmp_path / "again" / folder)
        shutil.copy(tmp_path / "whole" / name / "config.json", tmp_path / "again" / name)
    done = train_several(configs(store, tmp_path / "again"), students=students(), show=False)
    for result, expected in zip(done, alone[0], strict=True):
        assert all(torch.equal(v, expected[n]) for n, v in weights(result.student).items())


def test_one_that_diverges_leaves_the_others_alone(store, alone, tmp_path):
    one, two, three = configs(store, tmp_path)
    broken = Objective(custom={"bad": (1.0, lambda student, _: student.image.sum() * torch.nan)})
    two = replace(two, objective=broken, data=replace(two.data, teachers=None))
    with pytest.raises(DivergedError, match="left out"):
        train_several(
            [one, replace(two, watch=WatchConfig(max_skips=2)), three],
            students=students(),
            show=False,
        )
    for name, expected in (("a", alone[0][0]), ("c", alone[0][2])):
        saved = load_file(tmp_path / name / "model.safetensors")
        assert all(torch.equal(v, expected[n]) for n, v in saved.items())
        assert (tmp_path / name / "result.json").is_file()
    assert not (tmp_path / "b" / "result.json").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: replace(c, data=replace(c.data, batch_size=4)), "data.batch_size: 8 and 4"),
        (lambda c: replace(c, seed=1), "seed: 0 and 1"),
        (lambda c: replace(c, schedule=ScheduleConfig(num_steps=9, warmup_steps=1)), "num_steps"),
        (lambda c: replace(c, objective=Objective()), "the stored teachers read"),
        (lambda c: replace(c, masks=MaskConfig(keep=0.5, steps=2, warmup_steps=1)), "masks"),
        (lambda c: replace(c, out=""), "a folder of its own"),
        (lambda c: replace(c, data=replace(c.data, store="elsewhere")), "one store"),
    ],
)
def test_what_cannot_share_a_pass_is_refused_and_named(store, tmp_path, change, said):
    one, two, three = configs(store, tmp_path)
    with pytest.raises(ValueError, match=said):
        train_several([one, change(two), three], students=students(), show=False)


def test_other_pictures_or_another_tokenizer_are_refused(store, tmp_path):
    one, _, three = students()
    larger = build_student(TinyEncoder(seed=5), image_size=20, tokenizer=TOKENIZER)
    with pytest.raises(ValueError, match="image_size: 16 and 20"):
        train_several(configs(store, tmp_path), students=[one, larger, three], show=False)


def test_the_command_line_trains_files_of_configurations(store, tmp_path, capsys):
    files = []
    for student, config in zip(students()[1:2] * 2, configs(store, tmp_path)[:2], strict=True):
        student.save(tmp_path / "start")
        named = replace(config, student=StudentConfig(name=str(tmp_path / "start")))
        files.append(tmp_path / f"{len(files)}.json")
        files[-1].write_text(json.dumps(named.as_json()))
    assert main(["train", "--students", *map(str, files), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)["runs"]
    assert [one["steps"] for one in said.values()] == [6, 6]
    assert main(["status", str(tmp_path / "a"), str(tmp_path / "b"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["runs"]
    assert [(one["step"], one["finished"]) for one in found] == [(6, True), (6, True)]
    (tmp_path / "half.json").write_text('{"seed": 1}')
    assert main(["train", "--students", str(tmp_path / "half.json")]) == 2
    assert "no whole configuration" in capsys.readouterr().err
