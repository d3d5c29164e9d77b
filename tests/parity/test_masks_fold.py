"""A masked student computes what the smaller student that it folds to computes.

Every family that masks know, small and in float64, every number and every gate drawn at random.
Differences are relative to how far apart different inputs are.
"""

import copy

import pytest
import torch

from students import load_student
from students.inheritance import annotate
from students.inheritance.measuring import contrastive
from students.inheritance.testing import difference, inputs_for, randomise
from students.masks import fold, sizes_of, unmask
from students.masks.folding import check_foldable
from students.masks.moments import carry_moments
from students.masks.testing import FAMILIES, masked, open_clip_vit, smaller
from students.student import Student

# The others are long proofs: each of these is nearest to some of them.
QUICK = ("open_clip ViT", "BERT", "timm ResNet", "SmallConv")
EACH = [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in FAMILIES]


def count(module: torch.nn.Module) -> int:
    return sum(each.numel() for each in module.parameters())


@pytest.mark.parametrize("family", EACH)
def test_a_masked_student_is_its_folded_one(family: str, tmp_path) -> None:
    student = randomise(FAMILIES[family](), 1)
    whole = copy.deepcopy(student)
    assert sum(each.total for each in sizes_of(student)) > 0
    masks = masked(student)
    sizes = smaller(masks)
    masks.choose(sizes)
    assert sum(value < masks.sizes[name].total for name, value in sizes.items()) >= 3, sizes
    before = [
        encode(given).detach()
        for encode, given in zip(
            (student.encode_image, student.encode_text), inputs_for(whole), strict=True
        )
    ]
    assert difference(whole, student) > 0.1
    folded = fold(student, masks, sizes).student
    assert count(folded.module.visual) < 0.8 * count(whole.module.visual)
    assert count(folded.module.text) < 0.8 * count(whole.module.text)
    pixels, tokens = inputs_for(whole)
    for rows, other in zip(
        before, (folded.encode_image(pixels), folded.encode_text(tokens)), strict=True
    ):
        spread = (rows - rows.mean(0)).abs().mean()
        assert ((rows - other).abs().max() / spread).item() < 1e-5
    folded.float().save(tmp_path)
    again = load_student(tmp_path).module.state_dict()
    weights = folded.module.state_dict()
    assert weights.keys() == again.keys()
    assert all(torch.equal(value, again[key]) for key, value in weights.items())


@pytest.mark.parametrize(
    "family", ["open_clip ViT", "BERT", pytest.param("SmallViT", marks=pytest.mark.slow)]
)
def test_down_to_one_head_and_one_block(family: str) -> None:
    student = randomise(FAMILIES[family](), 1)
    masks = masked(student)
    sizes = {name: size.least for name, size in masks.sizes.items()}
    assert {value for name, value in sizes.items() if name.endswith(("heads", "layers"))} == {1}
    masks.choose(sizes)
    pixels, tokens = inputs_for(student)
    with torch.no_grad():
        before = (student.encode_image(pixels), student.encode_text(tokens))
        folded = fold(student, masks, sizes).student
        after = (folded.encode_image(pixels), folded.encode_text(tokens))
    for rows, other in zip(before, after, strict=True):
        torch.testing.assert_close(rows, other, rtol=0, atol=1e-9)


@pytest.mark.parametrize("family", list(FAMILIES))
def test_the_smallest_sizes_can_be_built(family: str) -> None:
    student = FAMILIES[family]()
    annotation = annotate(student)
    check_foldable(student, annotation, sizes_of(student, annotation))


@pytest.mark.parametrize("family", EACH)
def test_open_masks_change_nothing_and_leave_nothing_behind(family: str) -> None:
    student = randomise(FAMILIES[family](), 1)
    whole = copy.deepcopy(student)
    masks = masked(student)
    with torch.no_grad():
        masks.alpha.fill_(3.0)
    masks.choose({name: size.total for name, size in masks.sizes.items()})
    assert difference(whole, student) < 1e-9
    unmask(student)
    assert type(student.module) is type(whole.module)
    assert student.module.state_dict().keys() == whole.module.state_dict().keys()
    assert difference(whole, student) == 0


def steps(student: Student, optimizer: torch.optim.Optimizer, seeds: range) -> None:
    """The contrastive loss on noise, a step for each seed; in training mode."""
    student.train()
    for seed in seeds:
        contrastive(student.module, inputs_for(student, seed)).backward()
        optimizer.step()
        optimizer.zero_grad()
    student.eval()


def adamw(student: Student) -> tuple[torch.optim.Optimizer, dict[str, torch.nn.Parameter]]:
    named = dict(student.module.named_parameters())
    return torch.optim.AdamW(list(named.values()), lr=1e-3), named


def test_with_adams_moments_the_next_step_is_the_one_the_masked_student_would_take() -> None:
    def trained() -> tuple:
        student = randomise(open_clip_vit(), 1)
        masks = masked(student)
        sizes = masks.rounded()
        masks.choose(sizes)
        with torch.no_grad():  # no gate in between: what is drawn is what is kept
            for place in masks.spans:
                kept = masks.gates(place, training=False)[1]
                masks.alpha[masks.spans[place]] = torch.where(kept, 60.0, -60.0).double()
        optimizer, _ = adamw(student)
        masks.draw(0)
        steps(student, optimizer, range(3))
        return student, masks, sizes, optimizer

    student, _, _, optimizer = trained()
    large, masks, sizes, large_optimizer = trained()
    folded = fold(large, masks, sizes)
    named = dict(large.module.named_parameters())
    small_optimizer, small = adamw(folded.student)
    carry_moments(folded.plan, (large_optimizer, named), (small_optimizer, small))
    assert difference(student, folded.student) < 1e-9
    before = copy.deepcopy(folded.student)
    steps(student, optimizer, range(3, 5))
    steps(folded.student, small_optimizer, range(3, 5))
    assert difference(before, folded.student) > 0.01
    assert difference(student, folded.student) < 1e-5
