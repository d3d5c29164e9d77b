"""What cannot be inherited is refused before anything is changed; the message says what to do."""

import copy
import json

import pytest
import torch
from torch import nn

from students import StudentSpec, TextSpec, build_student
from students.inheritance import (
    InheritancePlan,
    apply_plan,
    inherit,
    load_plan,
    plan_inheritance,
)
from students.inheritance.testing import WORDS, Towers, inputs_for, student_of, text_tower
from students.small_towers import SmallConv
from teachers import load_teacher


def tensors(student) -> dict[str, torch.Tensor]:
    return copy.deepcopy(student.module.state_dict())


def unchanged(student, before: dict[str, torch.Tensor]) -> bool:
    after = student.module.state_dict()
    return all(torch.equal(after[key], before[key]) for key in before)


def pair():
    return student_of(SmallConv(4, 16), seed=1), student_of(SmallConv(8, 16), seed=2)


class Bag(nn.Module):
    """A text tower without anything that the others have."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.EmbeddingBag(WORDS.vocab_size, 16)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.words(tokens)


class Pool(nn.Module):
    """An image tower of no known family."""

    def __init__(self) -> None:
        super().__init__()
        self.colours = nn.Linear(3, 16)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.colours(pixels.mean((2, 3)))


def test_nothing_in_common() -> None:
    student = build_student(Towers(Pool(), Bag()), image_size=32, tokenizer=WORDS, name="strange")
    donor = student_of(SmallConv(8, 16))
    before = tensors(student)
    with pytest.raises(ValueError, match=r"strange can inherit nothing from towers.*family"):
        inherit(student.double(), donor)
    assert unchanged(student.float(), before)


def test_a_plan_for_another_donor_or_student() -> None:
    student, donor = pair()
    plan = plan_inheritance(student, donor)
    before = tensors(student)
    other = student_of(SmallConv(8, 16), seed=3)
    with pytest.raises(ValueError, match="another donor, or other weights"):
        apply_plan(plan, student, other)
    wider = student_of(SmallConv(5, 16), seed=1)
    with pytest.raises(ValueError, match="a student of other shapes"):
        apply_plan(plan, wider, donor)
    assert unchanged(student, before)
    apply_plan(plan, student, donor)
    assert not unchanged(student, before)


def test_a_head_count_that_does_not_divide() -> None:
    student, donor = pair()
    student.module.text.transformer.resblocks[0].attn.num_heads = 5
    before = tensors(student)
    with pytest.raises(ValueError, match="encode_text does not run"):
        inherit(student, donor)
    assert unchanged(student, before)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"selector": "magnitud"}, "did you mean 'magnitude'"),
        ({"depth": "unifrm"}, "did you mean 'uniform'"),
        ({"towers": ("images",)}, "image, text or both"),
        ({"towers": ()}, "image, text or both"),
        ({"selector": {"image": "leading"}}, r"every tower that inherits.*text"),
        ({"selector": "taylor"}, "pass batches"),
        ({"depth": "similarity"}, "pass batches"),
        ({"selector": "activation", "batches": []}, "batches is empty"),
        ({"selector": lambda carriers: torch.zeros(3)}, "one finite score for each of"),
    ],
)
def test_wrong_arguments(arguments: dict, message: str) -> None:
    student, donor = pair()
    before = tensors(student)
    with pytest.raises(ValueError, match=message):
        inherit(student, donor, **arguments)
    assert unchanged(student, before)


def test_a_quantised_donor() -> None:
    spec = StudentSpec(
        image="smallconv-8",
        text=TextSpec(width=64, layers=1, heads=2, context_length=8),
        embed_dim=16,
        image_size=32,
    )
    student = build_student(spec, tokenizer=WORDS)
    donor = load_teacher(build_student(spec, tokenizer=WORDS), precision="int8", name="small")
    with pytest.raises(ValueError, match=r'small is quantised.*precision="fp32"'):
        inherit(student, donor)


def test_measuring_leaves_the_donor_as_it_was() -> None:
    student, donor = pair()
    donor.train()
    for parameter in donor.module.visual.parameters():
        parameter.requires_grad_(False)
    wanted = {name: each.requires_grad for name, each in donor.module.named_parameters()}
    before = tensors(donor)
    batches = [inputs_for(donor)]
    for selector in ("activation", "taylor"):
        plan_inheritance(student, donor, selector=selector, depth="similarity", batches=batches)
    assert unchanged(donor, before) and donor.module.visual.training
    assert wanted == {name: each.requires_grad for name, each in donor.module.named_parameters()}
    assert all(each.grad is None for each in donor.module.parameters())


def test_a_plan_of_another_format(tmp_path) -> None:
    student, donor = pair()
    plan = plan_inheritance(student, donor)
    plan.save(tmp_path / "plan.json")
    assert load_plan(tmp_path / "plan.json") == plan
    values = json.loads((tmp_path / "plan.json").read_text())
    with pytest.raises(ValueError, match="has format 99, this version reads format 1"):
        InheritancePlan.from_json({**values, "format": 99})


def test_a_tower_without_a_donor_stays_and_is_reported() -> None:
    student = student_of(SmallConv(4, 16), seed=1)
    donor = student_of(Pool(), text_tower(width=64, heads=4), seed=2)
    before = tensors(student)
    report = inherit(student, donor)
    after = student.module.state_dict()
    assert all(torch.equal(after[k], before[k]) for k in before if k.startswith("visual."))
    assert report.coverage["image"].keys() == {"own"}
    assert report.coverage["text"].keys() == {"selected"}
    assert set(report.towers["image"].own) == {k for k in before if k.startswith("visual.")}
    assert "the donor has no" in str(report)
