"""A student that computes as the smaller one would: masks put where an axis is read.

A gate multiplies what *reads* its unit (the columns of fc2, of the attention's output, of
everything that sums over the residual stream); whatever a closed unit holds then reaches nobody,
so nothing that writes to it needs a mask. What is left is what counts units: a LayerNorm over a
masked axis takes mean and variance over the open units alone (CoFi's and TinyCLIP's
compensation). A block's gate multiplies what the block adds to the stream. Weights are multiplied,
not activations: attention, convolutions and their fused kernels run as they are. Only where a norm
or an activation follows a block's sum (BERT, ResNet) is the block's output mixed with its input.

Weights get their gates by `torch.nn.utils.parametrize`; `unmask` takes all of it away again.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from students.inheritance.annotation import Annotation, Slot, TowerAxes
from students.masks.masks import Masks, Place
from students.student import Student, TowerName


@dataclass(frozen=True, kw_only=True)
class _Factor:
    """A dimension of a stored weight and what it is multiplied by.

    Attributes:
        at: the dimension; None multiplies the whole weight (a block's gate).
        axes: (masked member or None, length) of each axis of the dimension, slowest first.
        number: of the block.
    """

    at: int | None
    axes: tuple[tuple[Place | None, int], ...]
    number: int = 0


class _Gated(nn.Module):
    """The parametrization: a weight times the gates of what it reads."""

    def __init__(self, masks: Masks, factors: Sequence[_Factor]) -> None:
        super().__init__()
        # In a tuple: the masks' numbers are no part of the student's.
        self.masks, self.factors = (masks,), tuple(factors)

    def forward(self, weight: Tensor) -> Tensor:
        for factor in self.factors:
            values = _values(self.masks[0], factor, self.training).to(weight.dtype)
            if factor.at is not None:
                shape = [1] * weight.ndim
                shape[factor.at] = -1
                values = values.view(shape)
            weight = weight * values
        return weight


class _OpenNorm(nn.Module):
    """A LayerNorm whose mean and variance are taken over the open units alone.

    Args:
        norm: the LayerNorm it stands for, which lends its weights.
        masks, place: whose units are open.
        channels: the dimension of the channels in what it is given.
    """

    def __init__(self, norm: nn.LayerNorm, masks: Masks, place: Place, channels: int) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps
        self.replaced = (norm,)  # put back by `unmask`
        self.masks, self.place, self.channels = (masks,), place, channels
        self.training = norm.training

    def forward(self, x: Tensor) -> Tensor:
        _, kept = self.masks[0].gates(self.place, self.training)
        wide = x if x.dtype == torch.float64 else x.float()
        wide = wide.movedim(self.channels, -1)
        return (
            _open_norm(wide, kept, self.weight, self.bias, self.eps)
            .movedim(-1, self.channels)
            .to(x.dtype)
        )


def _open_norm(x: Tensor, kept: Tensor, weight: Any, bias: Any, eps: float) -> Tensor:
    """Normalise over the kept channels; the others come out as what the affine part makes of 0."""
    if bool(kept.all()) and not torch.compiler.is_compiling():
        return F.layer_norm(x, x.shape[-1:], weight, bias, eps)
    open_ = kept.to(x.dtype)
    count = open_.sum()
    mean = (x * open_).sum(-1, keepdim=True) / count
    centred = (x - mean) * open_
    variance = centred.square().sum(-1, keepdim=True) / count
    normed = centred * (variance + eps).rsqrt()
    normed = normed if weight is None else normed * weight
    return normed if bias is None else normed + bias


class _Mixed:
    """A forward hook: a block's output, as far as its gate is open, and its input for the rest."""

    def __init__(self, masks: Masks, place: Place, number: int) -> None:
        self.masks, self.place, self.number = masks, place, number

    def __call__(self, block: nn.Module, args: Any, kwargs: dict[str, Any], out: Any) -> Any:
        given = args[0] if args else next(iter(kwargs.values()))
        gate = self.masks.gates(self.place, block.training)[0][self.number].to(given.dtype)
        if isinstance(out, tuple):  # as of transformers before version 5
            return (given + gate * (out[0] - given), *out[1:])
        # A block that always stays may change the shape.
        return out if out.shape != given.shape else given + gate * (out - given)


def mask(student: Student, masks: Masks, annotation: Annotation) -> None:
    """Put masks into a student, in place; `unmask` takes them out.

    Args:
        student: unmasked.
        masks: of its sizes.
        annotation: of the student.

    Raises:
        ValueError: when an axis is normalised by something that is no LayerNorm, or is read by
            nothing that masks reach; nothing is changed then.
    """
    factors: defaultdict[str, list[_Factor]] = defaultdict(list)
    norms: dict[str, Place] = {}
    mixed: dict[str, Place] = {}
    read: set[Place] = set()
    for tower, axes in annotation.towers.items():
        for place in (each for each in masks.mixed if each[0] == tower):
            mixed[axes.homes[place[1]]] = place
        for slot in axes.slots.values():
            if slot.part is None or slot.part[0] == 0:
                found = _reads(masks, tower, axes, slot, student)
                factors[slot.key] += found
                read |= {place for each in found for place, _ in each.axes if place}
            # The gate of a block multiplies each part alike: one part stands for all.
            if slot.part is None:
                factors[slot.key] += _writes(masks, tower, axes, slot)
            place = _normed(masks, tower, slot)
            if place is not None:
                norms[slot.key.rpartition(".")[0]] = place
    _check(student, masks, norms, read)
    for key, found in factors.items():
        if found:
            home, _, name = key.rpartition(".")
            part = student.module.get_submodule(home)
            gated = _Gated(masks, found).train(part.training)
            parametrize.register_parametrization(part, name, gated)
    for home, place in norms.items():
        norm: Any = student.module.get_submodule(home)
        if isinstance(norm, nn.LayerNorm):
            _put(student.module, home, _OpenNorm(norm, masks, place, _channels(norm)))
    for home, place in mixed.items():
        for number, block in enumerate(student.module.get_submodule(home).children()):
            block.register_forward_hook(_Mixed(masks, place, number), with_kwargs=True)


def unmask(student: Student) -> None:
    """Take the masks out: the weights are the trained ones, at their full size."""
    for home, part in list(student.module.named_modules()):
        if isinstance(part, _OpenNorm):
            norm = part.replaced[0]
            norm.train(part.training)
            _put(student.module, home, norm)
    for part in list(student.module.modules()):
        for key, hook in list(part._forward_hooks.items()):
            if isinstance(hook, _Mixed):
                part._forward_hooks.pop(key)
                part._forward_hooks_with_kwargs.pop(key, None)
        if parametrize.is_parametrized(part):
            for name in list(part.parametrizations):  # type: ignore[arg-type]
                parametrize.remove_parametrizations(part, name, leave_parametrized=False)


def bake(student: Student) -> dict[str, Tensor]:
    """The state dict of the unmasked student with evaluation mode's gates multiplied into it."""
    values: dict[str, Tensor] = {}
    for home, part in student.module.eval().named_modules():
        if parametrize.is_parametrized(part):
            for name in part.parametrizations:  # type: ignore[union-attr]
                values[f"{home}.{name}".lstrip(".")] = getattr(part, name).detach().clone()
    return values


def _put(module: nn.Module, path: str, part: nn.Module) -> None:
    home, _, name = path.rpartition(".")
    setattr(module.get_submodule(home), name, part)


def _channels(norm: nn.LayerNorm) -> int:
    """timm's LayerNorm2d is given (batch, channels, height, width)."""
    return 1 if "2d" in type(norm).__name__ else -1


def _reads(
    masks: Masks, tower: TowerName, axes: TowerAxes, slot: Slot, student: Student
) -> list[_Factor]:
    """A factor for each dimension that a weight is summed over and that has a masked axis."""
    stored = student.module.state_dict()[slot.key]
    places = [at for at, size in enumerate(stored.shape) if size > 1]
    places = places[::-1] if slot.transposed else places
    found: list[_Factor] = []
    for dim in sorted(slot.summed):
        members: list[tuple[Place | None, int]] = []
        for name in slot.dims[dim]:
            place = (tower, name)
            members.append((place if place in masks.spans else None, axes.axes[name].size))
        if any(place for place, _ in members):
            found.append(_Factor(at=places[dim], axes=tuple(members)))
    return found


def _writes(masks: Masks, tower: TowerName, axes: TowerAxes, slot: Slot) -> list[_Factor]:
    """A factor for what a block adds to the stream: its last matrices and their biases."""
    found: list[_Factor] = []
    for container in axes.containers:
        start = f"{container}."
        place = (tower, container)
        if place not in masks.spans or place in masks.mixed or not slot.role.startswith(start):
            continue
        matrix = axes.slots.get(f"{slot.role.rpartition('.')[0]}.weight")
        if matrix is None or not matrix.summed:
            continue
        outputs = [dim for at, dim in enumerate(matrix.dims) if at not in matrix.summed]
        if any(axes.axes[name].kind == "hidden" for dim in outputs for name in dim):
            number = int(slot.role.removeprefix(start).split(".")[0])
            found.append(_Factor(at=None, axes=((place, 1),), number=number))
    return found


def _normed(masks: Masks, tower: TowerName, slot: Slot) -> Place | None:
    """The masked axis of a vector that is neither a bias nor part of a matrix product."""
    if len(slot.dims) != 1 or len(slot.dims[0]) != 1 or slot.summed:
        return None
    place = (tower, slot.dims[0][0])
    return place if place in masks.spans else None


def _check(student: Student, masks: Masks, norms: dict[str, Place], read: set[Place]) -> None:
    for place in masks.spans:
        blocks = any(
            m.blocks for s in masks.sizes.values() for m in s.members if m.axis == place[1]
        )
        if place not in read and not blocks:
            raise ValueError(
                f"no weight of {student.name} reads {place[1]} of its {place[0]} tower, so a mask "
                "on it would do nothing: leave that tower out of masks.towers"
            )
    for home in norms:
        norm = student.module.get_submodule(home)
        name = type(norm).__name__
        if "Norm" in name and "Batch" not in name and not isinstance(norm, nn.LayerNorm):
            raise ValueError(
                f"{home} of {student.name} is a {name}; masks know LayerNorm and BatchNorm: leave "
                "that tower out of masks.towers"
            )


def _values(masks: Masks, factor: _Factor, training: bool) -> Tensor:
    """The gates along one dimension, ones where an axis has none."""
    if factor.at is None:
        ((place, _),) = factor.axes
        assert place is not None
        return masks.gates(place, training)[0][factor.number]
    result = torch.ones(1, device=masks.alpha.device)
    for place, length in factor.axes:
        values = (
            torch.ones(length, device=result.device)
            if place is None
            else masks.gates(place, training)[0]
        )
        result = (result[:, None] * values).flatten()
    return result
