"""Inheritance changes nothing that it should not: equal shapes, superfluous units, growing.

Towers of every family, small and in float64, every number drawn at random (layer scales and
BatchNorm statistics too). Differences are relative to how far apart different inputs are.
"""

from collections.abc import Callable, Iterator

import open_clip
import pytest
import timm
import torch
from open_clip.modified_resnet import ModifiedResNet
from torch import nn

from students.inheritance import inherit, plan_inheritance
from students.inheritance.testing import (
    difference,
    inputs_for,
    plant_dead_units,
    student_of,
    text_tower,
)
from students.small_towers import SmallConv
from teachers.clip_model import evaluating

SELECTORS = ("leading", "uniform", "magnitude", "activation", "taylor")


def open_clip_vit(width: int = 64, heads: int = 4, layers: int = 3, **sizes) -> nn.Module:
    values = {"image_size": 32, "patch_size": 8, "mlp_ratio": 4.0, "output_dim": 16, **sizes}
    return open_clip.transformer.VisionTransformer(
        width=width, heads=heads, layers=layers, **values
    )


def timm_vit(width: int = 64, heads: int = 4, depth: int = 3, **sizes) -> nn.Module:
    values = {"img_size": 32, "patch_size": 8, "num_classes": 16, **sizes}
    return timm.models.VisionTransformer(embed_dim=width, num_heads=heads, depth=depth, **values)


def siglip_vit(**sizes) -> nn.Module:
    return timm_vit(class_token=False, global_pool="map", **sizes)


def fastvit(*widths: int, layers: tuple[int, ...] = (1, 1, 1, 2), ratio: int = 3) -> nn.Module:
    return timm.create_model(
        "fastvit_mci0",
        num_classes=16,
        embed_dims=widths,
        layers=layers,
        mlp_ratios=(ratio,) * 4,
    )


def convnext(*widths: int) -> nn.Module:
    return timm.models.ConvNeXt(num_classes=16, depths=(1, 1, 2, 1), dims=widths)


def repvit(*widths: int) -> nn.Module:
    return timm.models.RepVit(num_classes=16, embed_dim=widths, depth=(1, 1, 1, 1))


def tinyvit(*widths: int) -> nn.Module:
    """Its attention adds a table of biases, a row a head, looked up by distance."""
    return timm.models.TinyVit(
        num_classes=16,
        embed_dims=widths,
        depths=(1, 1, 1, 1),
        num_heads=tuple(width // 8 for width in widths),
        window_sizes=(7, 7, 7, 7),
    )


def vitamin(width: int, heads: int) -> nn.Module:
    cells = timm.models.vitamin.VitCfg(
        embed_dim=(width // 4, width // 2, width),
        depths=(1, 1, 1),
        stem_width=width // 4,
        conv_cfg=timm.models.vitamin.VitConvCfg(norm_layer="layernorm2d", norm_eps=1e-6),
        head_type="1d",
    )
    return timm.create_model(
        "vitamin_small_224",
        img_size=32,
        num_classes=16,
        embed_dim=width,
        num_heads=heads,
        depth=2,
        embed_cfg=cells,
    )


# A donor, and a student half as wide.
PAIRS: dict[str, tuple[Callable[[], nn.Module], Callable[[], nn.Module]]] = {
    "open_clip ViT": (open_clip_vit, lambda: open_clip_vit(32, 2)),
    "timm ViT": (lambda: timm_vit(init_values=1.0), lambda: timm_vit(32, 2, init_values=1.0)),
    "SigLIP ViT": (siglip_vit, lambda: siglip_vit(width=32, heads=2)),
    "ViTamin": (lambda: vitamin(64, 4), lambda: vitamin(32, 2)),
    "ResNet": (
        lambda: ModifiedResNet([1, 1, 1, 1], 16, 4, 32, 16),
        lambda: ModifiedResNet([1, 1, 1, 1], 16, 2, 32, 8),
    ),
    "FastViT": (lambda: fastvit(32, 64, 128, 256), lambda: fastvit(16, 32, 64, 128)),
    "FastViT, MLPs": (
        lambda: fastvit(16, 32, 64, 128, ratio=4),
        lambda: fastvit(16, 32, 64, 128, ratio=3),
    ),
    "ConvNeXt": (lambda: convnext(16, 32, 64, 128), lambda: convnext(8, 16, 32, 64)),
    "MobileNetV4": (
        lambda: timm.create_model("mobilenetv4_conv_small_050", num_classes=16),
        lambda: timm.create_model("mobilenetv4_conv_small_035", num_classes=16),
    ),
    "RepViT": (lambda: repvit(16, 32, 64, 128), lambda: repvit(8, 16, 32, 64)),
    "TinyViT": (lambda: tinyvit(32, 32, 64, 64), lambda: tinyvit(16, 16, 32, 32)),
    "SmallConv": (lambda: SmallConv(8, 16), lambda: SmallConv(4, 16)),
}


# Every family, and one of each kind with every selector that measures.
PLANTED = [(family, "magnitude") for family in PAIRS] + [
    (family, selector)
    for family in ("open_clip ViT", "ConvNeXt", "SmallConv")
    for selector in ("activation", "taylor")
]


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


@pytest.mark.parametrize(("family", "selector"), PLANTED)
def test_superfluous_units_are_found_and_not_missed(family: str, selector: str) -> None:
    make_donor, make_student = PAIRS[family]
    donor = student_of(make_donor(), text_tower(width=64, heads=4), seed=1)
    student = student_of(make_student(), seed=2)
    plan = plan_inheritance(student, donor, selector="leading")
    kinds = {axis.kind for axis in plan.towers["image"].axes.values() if not axis.identity}
    assert kinds >= ({"inner"} if family in ("FastViT, MLPs", "SmallConv") else {"inner", "hidden"})
    plant_dead_units(donor, plan)
    report = inherit(student, donor, selector=selector, batches=[inputs_for(donor)])
    assert difference(donor, student) < 1e-5
    # Which units are superfluous is random: the first ones would not do.
    chosen = {axis.indices for axis in report.towers["image"].axes.values() if not axis.identity}
    assert not chosen & {tuple(range(size)) for size in map(len, chosen) if size > 8}


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
