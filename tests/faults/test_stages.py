"""Progressive compression: each stage starts from the one before, and a killed one goes on."""

import os
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from distill.config import DataConfig, RunConfig, ScheduleConfig, StudentConfig
from distill.recipes import find_recipe
from distill.stages import stage_configs
from distill.starting import build_from_config, train_from_config
from distill.testing import end, start
from reinforced_data import open_dataset, reinforce
from reinforced_data.testing import write_source
from students import CATALOG, load_student

STEPS = 6


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("world")
    source = write_source(folder / "source", 40, samples_per_shard=10)
    reinforce(source, folder / "store", teachers=(), num_views=2, progress=False)
    return str(folder / "store")


def config(store: str, out: Path) -> RunConfig:
    return RunConfig(
        student=StudentConfig(name="demo-student", stages=("demo-teacher-large",)),
        data=DataConfig(store=store, batch_size=8, teachers=(), num_workers=0),
        schedule=ScheduleConfig(num_steps=STEPS, warmup_steps=1),
        out=str(out),
        save_every=2,
        log_every=1,
    )


def learn(run: RunConfig) -> None:
    torch.set_num_threads(1)
    train_from_config(run, show=False)


@pytest.fixture(scope="module")
def undisturbed(store, tmp_path_factory) -> RunConfig:
    run = config(store, tmp_path_factory.mktemp("undisturbed") / "run")
    learn(run)
    return run


def test_each_stage_starts_from_the_weights_of_the_one_before(store, undisturbed):
    first, last = stage_configs(undisturbed)
    assert (Path(first.out).parent, last.out) == (Path(last.out) / "stages", undisturbed.out)
    assert last.student.donor == first.out and first.student.donor is None
    donor = load_student(first.out)
    begun = build_from_config(last.student, open_dataset(store), seed=last.seed)
    for name, value in begun.module.text.state_dict().items():
        assert torch.equal(value, donor.module.text.state_dict()[name]), name
    assert begun.image_params < donor.image_params
    assert load_student(last.out).image_params == begun.image_params


@pytest.mark.parametrize("stage", [0, 1])
def test_a_killed_stage_goes_on_and_the_weights_are_the_same(store, undisturbed, tmp_path, stage):
    run = config(store, tmp_path / "run")
    folder = Path(stage_configs(run)[stage].out)
    process = start(learn, run)
    assert process.pid is not None
    deadline = time.monotonic() + 120
    while not list(folder.glob("checkpoints/*")) and time.monotonic() < deadline:
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGKILL)
    assert end(process) == -signal.SIGKILL, "it was done before it was killed"
    before = {path: path.stat().st_mtime_ns for path in Path(run.out, "stages").rglob("*")}
    learn(run)
    weights = load_file(f"{run.out}/model.safetensors")
    wanted = load_file(f"{undisturbed.out}/model.safetensors")
    assert weights.keys() == wanted.keys()
    assert all(torch.equal(value, wanted[name]) for name, value in weights.items())
    if stage == 1:  # the finished one was left alone
        after = {path: path.stat().st_mtime_ns for path in Path(run.out, "stages").rglob("*")}
        assert after == before


def test_a_finished_stage_of_another_configuration_is_not_taken_for_this_one(undisturbed):
    longer = replace(undisturbed, schedule=ScheduleConfig(num_steps=9, warmup_steps=1))
    with pytest.raises(ValueError, match=r"stages.*another configuration.*num_steps"):
        learn(longer)


def test_a_run_that_was_moved_is_the_same_run(undisturbed, tmp_path):
    shutil.move(shutil.copytree(undisturbed.out, tmp_path / "copy"), tmp_path / "moved")
    before = load_file(tmp_path / "moved" / "model.safetensors")
    learn(replace(undisturbed, out=str(tmp_path / "moved")))
    after = load_file(tmp_path / "moved" / "model.safetensors")
    assert all(torch.equal(value, before[name]) for name, value in after.items())
    other = replace(undisturbed.student, stages=("demo-teacher-small",))
    with pytest.raises(ValueError, match=r"another configuration.*student\.donor"):
        learn(replace(undisturbed, out=str(tmp_path / "moved"), student=other))


def test_what_stages_cannot_be_combined_with(store, tmp_path):
    with pytest.raises(ValueError, match="need a folder"):
        stage_configs(replace(config(store, tmp_path), out=""))
    both = replace(config(store, tmp_path).student, text_from="runs/teacher")
    with pytest.raises(ValueError, match="give one of the two"):
        stage_configs(replace(config(store, tmp_path), student=both))


def test_the_recipe_goes_down_by_quarters():
    stages = [
        stage.student
        for stage in stage_configs(replace(find_recipe("tinyclip_progressive"), out="x"))
    ]
    sizes = [CATALOG[stage.name].image_params for stage in stages]
    # Of ViT-B/32's 87.8 M; the paper's percentages leave the embeddings out.
    assert [round(100 * size / 87_849_216) for size in sizes] == [70, 45, 27]
    assert stages[0].donor == "ViT-B-32/laion2b_e16"
