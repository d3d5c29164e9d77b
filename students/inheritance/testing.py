"""For tests: towers of any size under one roof, and units planted so that nothing needs them."""

import math
from collections.abc import Iterator
from typing import Any

import open_clip
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from students.building import build_student
from students.inheritance.annotation import Slot, TowerAxes, annotate
from students.inheritance.plan import InheritancePlan
from students.student import Student, TowerName
from teachers.clip_model import evaluating
from teachers.tokenizers import WordTokenizer

WORDS = WordTokenizer(("a", "cat", "dog", "two", "on", "mat", "red", "blue"), 8)
TEXTS = ("a cat", "two dog on mat", "red", "blue cat on a red mat", "dog")


class Towers(nn.Module):
    """An image and a text tower, named as in open_clip's CustomTextCLIP."""

    def __init__(self, visual: nn.Module, text: nn.Module) -> None:
        """Hold both."""
        super().__init__()
        self.visual = visual
        self.text = text
        self.logit_scale = nn.Parameter(torch.tensor(2.6))

    def encode_image(self, images: Tensor, /) -> Tensor:
        """Embed pixels."""
        return self.visual(images)

    def encode_text(self, tokens: Tensor, /) -> Tensor:
        """Embed token ids."""
        return self.text(tokens)


def text_tower(embed_dim: int = 16, **sizes: Any) -> nn.Module:
    """A small open_clip text tower."""
    values = {"width": 32, "heads": 2, "layers": 2, **sizes}
    return open_clip.transformer.TextTransformer(
        context_length=WORDS.context_length,
        vocab_size=WORDS.vocab_size,
        output_dim=embed_dim,
        **values,
    )


def student_of(
    visual: nn.Module, text: nn.Module | None = None, *, size: int = 32, seed: int = 0, **given: Any
) -> Student:
    """A float64 student whose every number is drawn at random, layer scales and statistics too."""
    text = text if text is not None else text_tower()
    module = Towers(visual, text)
    given = {"tokenizer": WORDS, "name": "towers", **given}
    student = build_student(module, image_size=size, **given)
    return randomise(student, seed)


def randomise(student: Student, seed: int) -> Student:
    """Draw every number so that each input has an output of its own; float64, evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    student.double().eval()
    for name, tensor in student.module.state_dict().items():
        if not tensor.is_floating_point() or tensor.numel() == 1:
            continue
        drawn = torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)
        if name.endswith("running_var") or (tensor.ndim == 1 and "bias" not in name):
            tensor.copy_(1 + 0.5 * drawn.tanh())
        else:
            fan = tensor[0].numel() if tensor.ndim > 1 else 1
            tensor.copy_(drawn * ((2 / fan) ** 0.5 if tensor.ndim > 1 else 0.2))
    return _settle(student)


@torch.no_grad()
def _settle(student: Student) -> Student:
    """Let BatchNorms see their inputs once: else deep convolutional towers say one thing only."""
    norms = [part for part in student.modules() if isinstance(part, _BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.train().momentum = 1.0
    student.encode_image(inputs_for(student, seed=1)[0])
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return student.eval()


def inputs_for(student: Student, seed: int = 9) -> tuple[Tensor, Tensor]:
    """Five pictures of noise and five texts."""
    size = student.preprocess.image_size
    generator = torch.Generator().manual_seed(seed)
    dtype = next(student.module.parameters()).dtype
    pixels = torch.randn(len(TEXTS), 3, size, size, generator=generator, dtype=dtype)
    return pixels, student.tokenizer(TEXTS)


@torch.no_grad()
def difference(one: Student, other: Student) -> float:
    """Largest difference of two students' rows, relative to how far apart different inputs are.

    At random weights all pictures embed nearly alike: a difference of 1e-5 may be all there is.
    """
    worst = 0.0
    for encode, given in zip(("encode_image", "encode_text"), inputs_for(one), strict=True):
        rows, others = (getattr(each, encode)(given) for each in (one, other))
        spread = (rows - rows.mean(0)).abs().mean()
        apart = ((rows - others).abs().max() / spread).item()
        worst = max(worst, apart) if math.isfinite(apart) else math.inf
    return worst


def plant_dead_units(
    donor: Student, plan: InheritancePlan, seed: int = 5, *, silent: bool = False
) -> dict[tuple[TowerName, str], tuple[int, ...]]:
    """Make as many units superfluous as the plan leaves out, in every axis that it narrows.

    Nobody reads a dead unit. Each writes what a living one writes: then the mean and variance
    that a LayerNorm sees stay the same without it, if every living unit is copied equally often.

    Args:
        donor: changed in place.
        plan: of any narrower student.
        seed: which units.
        silent: nothing is written to a dead unit either. Zeros narrow the spread that a LayerNorm
            divides by; what is written to the living units gets a mean of zero there, so that the
            spread is all that changes.

    Returns:
        The living units of each of the donor's axes that have dead ones.
    """
    generator = torch.Generator().manual_seed(seed)
    annotation = annotate(donor)
    tensors = donor.module.state_dict()
    found: dict[tuple[TowerName, str], tuple[int, ...]] = {}
    for tower, planned in plan.towers.items():
        for axis in planned.axes.values():
            narrower = len(axis.indices) < axis.donor_size and axis.kind != "vocabulary"
            if not narrower or (tower, axis.donor) in found:
                continue
            order = torch.randperm(axis.donor_size, generator=generator)
            living, dead = order[: len(axis.indices)], order[len(axis.indices) :]
            places = plan.towers if axis.kind == "embed" else (tower,)
            with evaluating(donor.module):  # which forgets what was computed from old weights
                for place in places:
                    axes = annotation.towers[place]
                    found[place, axis.donor] = tuple(sorted(living.tolist()))
                    if silent:
                        _silence(axes, tensors, axis.donor, living, dead)
                    else:
                        _copy(axes, tensors, axis.donor, living, dead)
    return found


def _copy(
    axes: TowerAxes, tensors: dict[str, Tensor], axis: str, living: Tensor, dead: Tensor
) -> None:
    copied = living.repeat(-(-len(dead) // len(living)))[: len(dead)]
    for _, units, reads in _carried(axes, tensors, axis):
        units[dead] = torch.zeros_like(units[dead]) if reads else units[copied]


def _silence(
    axes: TowerAxes, tensors: dict[str, Tensor], axis: str, living: Tensor, dead: Tensor
) -> None:
    normed = any((axis,) in axes.slots[role].dims for role in axes.norms)
    for slot, units, reads in _carried(axes, tensors, axis):
        units[dead] = 0
        home = slot.role.rpartition(".")[0]
        written = home == "norm_pre" or f"{home}.weight" not in axes.norms
        if reads or not normed or not written or not slot.learned:
            continue
        # Large beside the epsilon of LayerNorms, which is no weight and does not grow.
        if "scale" in home or slot.role in axes.norms:
            units[living] = 30
        else:
            units[living] = 30 * (units[living] - units[living].mean(0))


def _carried(
    axes: TowerAxes, tensors: dict[str, Tensor], axis: str
) -> Iterator[tuple[Slot, Tensor, bool]]:
    """Each weight with the axis in front, to be written into, and whether it reads the axis."""
    for slot in axes.slots.values():
        # A square matrix may write to the axis and read from it.
        for number, dim in slot.places(axis):
            sizes = [axes.axes[name].size for each in slot.dims for name in each]
            units = slot.read(tensors[slot.key]).reshape(sizes).movedim(number, 0)
            yield slot, units, dim in slot.summed
