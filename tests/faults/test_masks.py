"""A run with learned masks: found sizes, an ordinary student, and no bit lost when it is killed."""

import json
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from distill.config import DataConfig, RunConfig, ScheduleConfig, StudentConfig
from distill.lock_config import LockConfig
from distill.mask_config import MaskConfig
from distill.mask_phase import shrink
from distill.mask_report import SIZES_FILE
from distill.progress import run_progress
from distill.run_log import read_log
from distill.starting import build_from_config, train_from_config
from distill.testing import start
from reinforced_data import open_dataset, reinforce
from reinforced_data.testing import write_source
from students import StudentSpec, TextSpec, build_student, inherit, load_student
from students.inheritance import annotate
from students.inheritance.testing import WORDS
from students.masks import read_masks, sizes_of
from students.masks.folding import MASKS_FILE, check_foldable
from students.masks.testing import open_clip_vit

STEPS, MASKED = 10, 6


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("world")
    source = write_source(folder / "source", 40, samples_per_shard=10)
    reinforce(source, folder / "store", teachers=(), num_views=2, progress=False)
    return str(folder / "store")


def config(store: str, out: Path) -> RunConfig:
    return RunConfig(
        student=StudentConfig(name="demo-student"),
        data=DataConfig(store=store, batch_size=8, teachers=(), num_workers=0),
        schedule=ScheduleConfig(num_steps=STEPS, warmup_steps=1),
        masks=MaskConfig(keep=0.5, steps=MASKED, warmup_steps=2, lr=0.5, multiplier_lr=0.5),
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


def test_a_run_with_masks_ends_as_an_ordinary_student(store, undisturbed):
    out = Path(undisturbed.out)
    large = load_student(out / "stages" / "1-masks")
    small, folded = load_student(out), load_student(out / "stages" / "2-folded")
    whole, left = (each.image_params + each.text_params for each in (large, small))
    # As near to half as whole heads and multiples of 8 allow, and not above.
    assert 0.4 < left / whole <= 0.5
    assert (folded.image_params, folded.text_params) == (small.image_params, small.text_params)
    found = json.loads((out / "stages" / "2-folded" / SIZES_FILE).read_text())
    assert run_progress(out).sizes == found
    assert found["parameters"]["image"] == [large.image_params, small.image_params]
    assert found["parameters"]["text"] == [large.text_params, small.text_params]
    assert found["sizes"]["text.hidden"][1] == small.module.text.ln_final.weight.numel()
    steps = [r["step"] for r in read_log(out) if "loss/total" in r]
    assert steps == list(range(MASKED + 1, STEPS + 1))
    shares = [r["masks/share"] for r in read_log(out / "stages" / "1-masks") if "masks/share" in r]
    assert len(shares) == MASKED and shares[-1] < shares[0]


@pytest.mark.parametrize("part", ["stages/1-masks", "."])
def test_killed_in_either_part_no_bit_changes(store, undisturbed, tmp_path, part):
    run = config(store, tmp_path / "run")
    wanted = {"stages/1-masks": 4, ".": MASKED + 2}[part]
    folder = Path(run.out, part, "checkpoints", f"step-{wanted:08d}")
    process = start(learn, run)
    assert process.pid is not None
    deadline = time.monotonic() + 300
    while not folder.exists() and time.monotonic() < deadline:
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert process.exitcode == -signal.SIGKILL, "it was done before it was killed"
    learn(run)
    for name in ("stages/1-masks", "stages/2-folded", "."):
        weights, others = (
            load_file(f"{each.out}/{name}/model.safetensors") for each in (run, undisturbed)
        )
        assert weights.keys() == others.keys()
        assert all(torch.equal(value, others[key]) for key, value in weights.items()), name


def test_the_learned_order_serves_a_student_of_another_shape(store, undisturbed):
    masked = f"{undisturbed.out}/stages/1-masks"
    wanted = StudentConfig(name="demo-student", donor=masked, selector="learned")
    assert build_from_config(wanted, open_dataset(store)).name == "demo-student"
    student = load_student(undisturbed.out)
    report = inherit(student, load_student(masked), selector=read_masks(masked))
    assert report.inherited == 1
    kept = {axis.selector for axis in report.towers["text"].axes.values() if not axis.identity}
    assert kept == {"learned"}


def test_input_masks_that_cannot_be(store, undisturbed, tmp_path):
    run = config(store, tmp_path / "run")
    with pytest.raises(ValueError, match=r"leaves none of schedule\.num_steps=10"):
        replace(run, masks=replace(run.masks, steps=10))
    with pytest.raises(ValueError, match="two ways to shrink"):
        replace(run, student=replace(run.student, stages=("demo-teacher-large",)))
    with pytest.raises(ValueError, match="lock keeps a tower"):
        replace(run, lock=LockConfig(tower="text"))
    with pytest.raises(ValueError, match="a share above 0"):
        MaskConfig(keep=0.0)
    with pytest.raises(ValueError, match="a folder: give out"):
        learn(replace(run, out=""))
    tiny = replace(run.masks, keep=0.01)
    with pytest.raises(ValueError, match=r"cannot be reached: at the smallest sizes \d+\.\d% of"):
        learn(replace(run, masks=tiny))
    with pytest.raises(ValueError, match=f"has no {MASKS_FILE}"):
        read_masks(undisturbed.out)
    assert not (tmp_path / "run").exists()


def convnext():
    sizes = {"depths": (1, 1, 1, 1), "dims": (8, 16, 16, 32)}
    text = TextSpec(width=16, layers=2, heads=2, context_length=8)
    spec = StudentSpec(
        image="convnext_tiny", text=text, embed_dim=8, image_size=32, image_options=sizes
    )
    return build_student(spec, tokenizer=WORDS)


def test_input_a_tower_that_masks_do_not_know(store, tmp_path, capfd):
    student = convnext()
    with pytest.raises(ValueError, match=r"no size that could shrink \(image: masks do not know C"):
        sizes_of(student, towers=("image",))
    # Beside one that they know it is said, and the text tower alone must reach the share.
    run = config(store, tmp_path / "run")
    tiny = replace(run.masks, keep=0.01)
    with pytest.raises(ValueError, match="cannot be reached"):
        shrink(student, open_dataset(store), replace(run, masks=tiny), show=True)
    assert (
        "masks leave the image tower as it is: masks do not know ConvNeXt" in capfd.readouterr().err
    )


def test_input_sizes_that_a_configuration_cannot_say():
    student = open_clip_vit()
    annotation = annotate(student)
    width, *rest = sizes_of(student, annotation)
    check_foldable(student, annotation, (width, *rest))
    less = replace(width, members=width.members[1:])
    with pytest.raises(ValueError, match="does not shrink as masks would cut it"):
        check_foldable(student, annotation, (less, *rest))
