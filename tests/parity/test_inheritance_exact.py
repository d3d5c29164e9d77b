"""Inheritance changes nothing that it should not: equal shapes, growing, idle blocks.

Superfluous units have a file of their own (`test_inheritance_planted.py`).

Towers of every family, small and in float64, every number drawn at random (layer scales and
BatchNorm statistics too). Differences are relative to how far apart different inputs are.
"""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import nn

from students.inheritance import inherit, plan_inheritance
from students.inheritance.testing import (
    difference,
    inputs_for,
    plant_dead_units,
    student_of,
    text_tower,
)
from students.inheritance.testing_families import PAIRS, open_clip_vit, timm_vit
from students.small_towers import SmallConv
from teachers.clip_model import evaluating

SELECTORS = ("leading", "uniform", "magnitude", "activation", "taylor")


def equal_pairs() -> Iterator[object]:
    """Every family with every selector; the quick ones first, the rest in the long proofs."""
    for family in (name for name in PAIRS if name != "FastViT, MLPs"):
        yield family, ("magnitude",) if family != "SmallConv" else SELECTORS
    for family in PAIRS:
        yield pytest.param(family, SELECTORS, marks=pytest.mark.slow)


@pytest.mark.parametrize(("family", "selectors"), equal_pairs())
def test_at_equal_shapes_the_student_is_the_donor(family: str, selectors: tuple[str, ...]) -> None:
    donor = student_of(PAIRS[family][0](), seed=1)
    student = student_of(PAIRS[family][0](), seed=2)
    start = {key: value.clone() for key, value in student.module.state_dict().items()}
    for selector in selectors:
        with evaluating(student.module):
            student.module.load_state_dict(start)
        assert difference(donor, student) > 0.1
        report = inherit(student, donor, selector=selector, batches=[inputs_for(donor)])
        assert report.inherited == 1
        assert difference(donor, student) < 1e-6


@pytest.mark.parametrize(
    "family", ["open_clip ViT", "timm ViT", "SigLIP ViT", "ConvNeXt", "FastViT"]
)
def test_a_wider_student_computes_what_its_donor_does(family: str) -> None:
    make_wide, make_narrow = PAIRS[family]
    donor = student_of(make_narrow(), seed=1)
    student = student_of(make_wide(), text_tower(width=64, heads=4), seed=2)
    report = inherit(student, donor)
    assert report.inherited == 1 and report.coverage["image"]["grown"] > 0
    # Copies of a unit differ in what they pass on, so that they can learn different things.
    assert difference(donor, student) < 1e-5
    name = "fc2" if family != "open_clip ViT" else "c_proj"
    key = next(k for k in student.module.state_dict() if k.endswith(f"{name}.weight"))
    weight = student.module.state_dict()[key].flatten(1)
    half = weight.shape[1] // 2
    assert not torch.allclose(weight[:, :half], weight[:, half:])


@pytest.mark.parametrize("make", [open_clip_vit, timm_vit])
def test_one_head_takes_the_one_that_counts(make: Callable[..., nn.Module]) -> None:
    donor = student_of(make(), text_tower(width=64, heads=4), seed=1)
    student = student_of(make(16, 1), text_tower(width=16, heads=1), seed=2)
    plan = plan_inheritance(student, donor, selector="leading")
    heads = [axis for axis in plan.towers["image"].axes.values() if axis.kind == "heads"]
    assert {(len(axis.indices), axis.donor_size) for axis in heads} == {(1, 4)}
    plant_dead_units(donor, plan)
    assert inherit(student, donor).inherited == 1
    assert difference(donor, student) < 1e-5
    # And back: several heads are copies of the one.
    several = student_of(make(), text_tower(width=64, heads=4), seed=3)
    assert inherit(several, student).inherited == 1
    assert difference(student, several) < 1e-5


def test_unequal_copies_too_where_no_norm_counts_them() -> None:
    donor = student_of(SmallConv(5, 16), seed=1)
    student = student_of(SmallConv(7, 16), seed=2)
    assert inherit(student, donor).inherited == 1
    assert difference(donor, student) < 1e-6


def test_a_wider_embedding_keeps_every_dot_product() -> None:
    donor = student_of(open_clip_vit(), text_tower(embed_dim=16), seed=1)
    student = student_of(open_clip_vit(output_dim=27), text_tower(embed_dim=27), seed=2)
    inherit(student, donor)
    pixels, tokens = inputs_for(donor)
    with torch.no_grad():
        expected = donor.encode_image(pixels) @ donor.encode_text(tokens).T
        got = student.encode_image(pixels) @ student.encode_text(tokens).T
    torch.testing.assert_close(got, expected, atol=1e-9, rtol=0)


def test_a_narrower_embedding_is_the_same_choice_in_both_towers() -> None:
    donor = student_of(open_clip_vit(), text_tower(embed_dim=16), seed=1)
    dead = torch.tensor([0, 3, 4, 9, 13])
    tensors = donor.module.state_dict()
    for key in ("visual.proj", "text.text_projection"):
        tensors[key][:, dead] = 0
    student = student_of(open_clip_vit(output_dim=11), text_tower(embed_dim=11), seed=2)
    report = inherit(student, donor)
    kept = {tower.axes["embed"].indices for tower in report.towers.values()}
    assert kept == {tuple(unit for unit in range(16) if unit not in dead)}


def test_blocks_that_do_nothing_are_not_missed() -> None:
    donor = student_of(open_clip_vit(layers=6), text_tower(layers=6), seed=1)
    student = student_of(open_clip_vit(layers=3), text_tower(layers=3), seed=2)
    idle = (1, 2, 4)
    for name, tensor in donor.module.state_dict().items():
        block = name.partition("resblocks.")[2].partition(".")[0]
        writes = "out_proj" in name or "c_proj" in name
        if block and int(block) in idle and writes:
            tensor.zero_()
    report = inherit(student, donor, depth="similarity", batches=[inputs_for(donor)])
    assert report.towers["image"].depth == {"blocks": (0, 3, 5)}
    assert difference(donor, student) < 1e-9
    inherit(student, donor, depth="uniform")
    assert difference(donor, student) > 0.01


def test_extra_blocks_of_a_deeper_student_are_silent() -> None:
    donor = student_of(open_clip_vit(layers=2), seed=1)
    student = student_of(open_clip_vit(layers=5), text_tower(layers=3), seed=2)
    report = inherit(student, donor)
    assert report.towers["image"].depth == {"blocks": (0, None, None, None, 1)}
    assert report.coverage["image"]["silenced"] > 0
    assert difference(donor, student) < 1e-9


def test_from_one_library_to_another() -> None:
    donor = student_of(open_clip_vit(no_ln_pre=True), seed=1)
    student = student_of(timm_vit(norm_layer=nn.LayerNorm), seed=2)
    report = inherit(student, donor)
    # open_clip's patch embedding and projection have no bias: that is a bias of zero.
    assert report.inherited == 1
    assert difference(donor, student) < 1e-6
    back = student_of(open_clip_vit(no_ln_pre=True), seed=3)
    assert inherit(back, donor).inherited == 1
    assert difference(donor, back) < 1e-6
