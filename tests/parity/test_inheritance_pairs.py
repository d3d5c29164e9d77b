"""The pairs on which public tools fail, by assertions on names and shapes, are planned whole.

On the meta device: every axis of the real models, no weights. The shapes that a plan produces are
checked against the student's when it is applied (`test_inheritance_exact.py`).
"""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import nn

from students import CATALOG, build_student
from students.building import open_clip_module, open_clip_preprocess
from students.inheritance import InheritancePlan, annotate, inherit, plan_inheritance
from students.inheritance.testing import WORDS, Towers, difference, student_of, text_tower
from students.inheritance.testing_families import TransformersText
from students.small_towers import SmallConv
from students.spec import OpenClipSpec
from students.student import Student
from students.two_tower import TwoTower
from teachers.tokenizers import OpenClipTokenizer


def hollow(name: str) -> Student:
    """A catalogue or open_clip model without data."""
    build = CATALOG[name].build if name in CATALOG else name
    build = OpenClipSpec(model=build) if isinstance(build, str) else build
    with torch.device("meta"):
        if isinstance(build, OpenClipSpec):
            module = open_clip_module(build)
        else:
            module = TwoTower(replace(build, text=replace(build.text, vocab_size=49408)))
    module.logit_scale = nn.Parameter(torch.tensor(2.6))
    preprocess = (
        open_clip_preprocess(build.model, module)
        if isinstance(build, OpenClipSpec)
        else build.preprocess
    )
    # SigLIP's own tokenizers are downloads; only the number of tokens matters here.
    tokenizer = OpenClipTokenizer("ViT-B-32", 64 if "SigLIP" in name else 77)
    return Student(module, name=name, preprocess=preprocess, tokenizer=tokenizer, source={})


@pytest.mark.parametrize(
    ("student", "donor", "outcomes"),
    [
        # TinyCLIP asserts on the patch size, on names, on an embedding that grows.
        ("ViT-B-32", "ViT-L-14", {"selected", "resampled"}),
        ("RN50", "RN101", {"copied", "grown"}),
        pytest.param(
            *("RN50", "RN50x4", {"copied", "selected", "resampled", "grown"}),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            *("ViT-B-16-SigLIP", "ViT-L-16-SigLIP-256", {"selected", "resampled"}),
            marks=pytest.mark.slow,
        ),
        pytest.param(*("ViTamin-S", "ViTamin-B", {"selected"}), marks=pytest.mark.slow),
        # torch-pruning fails on FastViT's grouped convolutions with twice as many outputs.
        pytest.param(
            *("mci0-text6", "MobileCLIP-S2", {"copied", "selected"}), marks=pytest.mark.slow
        ),
    ],
)
def test_every_weight_has_a_donor(student: str, donor: str, outcomes: set[str]) -> None:
    plan = plan_inheritance(hollow(student), hollow(donor), selector="leading")
    assert plan.inherited == 1
    assert plan.coverage["image"].keys() == outcomes
    assert InheritancePlan.from_json(plan.as_json()) == plan


def catalog() -> Iterator[object]:
    for name in CATALOG:
        # One of each family here, their larger siblings in the long proofs.
        quick = name in ("mci0-text6", "mobilenetv4-small-text6", "ViT-S-32")
        yield name if quick else pytest.param(name, marks=pytest.mark.slow)


@pytest.mark.parametrize("name", catalog())
def test_every_weight_of_the_catalogue_is_annotated(name: str) -> None:
    annotation = annotate(hollow(name))
    assert annotation.unused == ("logit_scale",)
    for tower in annotation.towers.values():
        assert not tower.unread
        choosable = {"hidden", "inner"} & {axis.kind for axis in tower.axes.values()}
        assert choosable == {"hidden", "inner"}


def test_choosing_by_weights_needs_weights() -> None:
    student, donor = student_of(SmallConv(4, 16)), student_of(SmallConv(8, 16))
    donor.module.to("meta")
    with pytest.raises(ValueError, match="the donor is on the meta device"):
        plan_inheritance(student, donor)
    assert plan_inheritance(student, donor, selector="uniform").inherited == 1


def test_a_text_tower_of_transformers() -> None:
    pytest.importorskip("transformers")
    donor = student_of(SmallConv(4, 16), TransformersText(), seed=1)
    student = student_of(SmallConv(4, 16), text_tower(width=64, heads=4, layers=4), seed=2)
    assert inherit(student, donor).inherited == 1
    assert difference(donor, student) < 1e-6
    back = student_of(SmallConv(4, 16), TransformersText(), seed=3)
    assert inherit(back, student).inherited == 1
    assert difference(donor, back) < 1e-6


def test_own_modules_are_donors_too() -> None:
    donor = student_of(SmallConv(8, 16), text_tower(width=64, heads=4), seed=1)
    student = build_student(
        Towers(SmallConv(4, 16), text_tower(layers=1)), image_size=32, tokenizer=WORDS
    )
    assert inherit(student, donor).inherited == 1


@pytest.mark.slow
def test_a_phone_sized_fastvit_from_the_next_larger() -> None:
    torch.manual_seed(0)
    donor, student = build_student("MobileCLIP-S2"), build_student("mci0-text6")
    report = inherit(student, donor)
    assert report.inherited == 1
    with torch.no_grad():
        rows = student.eval().encode_image(torch.randn(2, 3, 256, 256))
    assert rows.isfinite().all() and rows.shape == (2, 512)
