"""What of a student may shrink.

A size is a number in a tower's configuration: its width, its MLPs' width, its blocks. Its members
are the axes (found by tracing, `students.inheritance.annotation`) that grow with it; every member
gets a mask of its own, and all members keep the same share. So what is found is an even shape,
which open_clip and timm can build, while each layer still chooses its own units. TinyCLIP's layers
have as many heads and units each as they like, which needs model code and attention of its own.
There a head is as wide as it was, and open_clip's and timm's attention is as wide as the stream:
width and heads are one size.

Known: open_clip's ViT and text towers, timm's VisionTransformer (SigLIP's pooled one too) and
FastViT under a `StudentSpec`, and the small convolutional towers. Others stay as they are.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import open_clip
import timm

from students.inheritance.annotation import Annotation, Axis, TowerAxes, annotate
from students.small_towers import PREFIX
from students.student import Student, TowerName

MULTIPLE = 8


@dataclass(frozen=True, kw_only=True)
class Member:
    """One axis, or one container of blocks, that grows with a size.

    Attributes:
        tower: where it is.
        axis: the axis's name, or the container's role path.
        each: units of the axis for one of the size.
        blocks: whether it is a container.
    """

    tower: TowerName
    axis: str
    each: int = 1
    blocks: bool = False


@dataclass(frozen=True, kw_only=True)
class Size:
    """A number that may shrink.

    Attributes:
        name: tower and field ("image.width"); width is counted in heads where there are any.
        total: what it is now.
        step: it shrinks by multiples of this.
        least: and not below this.
        members: what grows with it.
    """

    name: str
    total: int
    step: int = 1
    least: int = 1
    members: tuple[Member, ...]


def sizes_of(
    student: Student,
    annotation: Annotation | None = None,
    *,
    towers: Sequence[str] = ("image", "text"),
    smallest: float = 0.125,
) -> tuple[Size, ...]:
    """List what may shrink of a student.

    Args:
        student: with a configuration (by name or specification), not a module of one's own.
        annotation: of the student, where it is known.
        towers: which of its towers may.
        smallest: no size goes below this share of itself.

    Raises:
        ValueError: when nothing may shrink: which towers were looked at, and why not.
    """
    unknown = set(towers) - {"image", "text"}
    if unknown or not towers:
        raise ValueError(f"towers must be image, text or both, got {sorted(towers)}")
    if not 0 < smallest <= 1:
        raise ValueError(f"smallest is a share between 0 and 1, got {smallest}")
    annotation = annotation or annotate(student)
    found: list[Size] = []
    why: list[str] = []
    for tower in towers:
        made = _tower_sizes(student, annotation, tower, smallest)
        if isinstance(made, str):
            why.append(f"{tower}: {made}")
        else:
            found += made
    if not found:
        raise ValueError(
            f"{student.name} has no size that could shrink ({'; '.join(why)}). Masks know "
            "open_clip's ViT and text towers, and timm's ViT and FastViT in a StudentSpec"
        )
    return tuple(found)


def _tower_sizes(
    student: Student, annotation: Annotation, tower: str, smallest: float
) -> list[Size] | str:
    place: TowerName = "image" if tower == "image" else "text"
    axes = annotation.towers[place]
    if student.source["type"] not in ("spec", "open_clip"):
        return "a module of your own has no configuration to write smaller sizes into"
    part: Any = student.module.visual if place == "image" else student.module.text
    if student.source["type"] == "spec" and place == "image":
        image = student.source["spec"]["image"]
        if image.startswith(PREFIX):
            total = int(image.removeprefix(PREFIX))
            return [_width(place, axes, total, smallest, "width", MULTIPLE // 4)]
    rule = _RULES.get(type(part))
    return rule(place, axes, smallest) if rule else f"{type(part).__name__} is not known to masks"


def _transformer(place: TowerName, axes: TowerAxes, smallest: float) -> list[Size] | str:
    heads = [axis for axis in axes.axes.values() if axis.kind == "heads"]
    units = list(_mlps(axes).values())
    if not heads or not units or "blocks" not in axes.containers:
        return "its attention has one head or was not understood"
    total, depth = heads[0].size, len(axes.containers["blocks"])
    rest = {axis.name for axis in units}
    width = _width(place, axes, total, smallest, "heads", 1, besides=rest)
    members = tuple(Member(tower=place, axis=axis.name) for axis in units)
    size = units[0].size
    mlp = Size(
        name=f"{place}.mlp",
        total=size,
        step=MULTIPLE,
        least=_least(size, smallest, MULTIPLE),
        members=members,
    )
    blocks = Size(
        name=f"{place}.layers",
        total=depth,
        least=_least(depth, smallest, 1),
        members=(Member(tower=place, axis="blocks", blocks=True),),
    )
    return [width, mlp, blocks] if depth > 1 else [width, mlp]


def _fastvit(place: TowerName, axes: TowerAxes, smallest: float) -> list[Size] | str:
    """Widths of all stages are one axis; an attention's heads of 32 grow with it."""
    units = _mlps(axes)
    heads = [axis for axis in axes.axes.values() if axis.kind == "heads"]
    stem = max(axis.size for axis in axes.axes.values() if axis.kind == "hidden")
    rest = {axis.name for axis in units.values()}
    total = fastvit_units(stem, heads[0].size if heads else stem)
    width = _width(place, axes, total, smallest, "width", 1, besides=rest)
    found = [width]
    for stage in sorted({role.split(".")[1] for role in units}):
        mine = [axis for role, axis in units.items() if role.split(".")[1] == stage]
        size = mine[0].size
        members = tuple(Member(tower=place, axis=axis.name) for axis in mine)
        least = _least(size, smallest, MULTIPLE)
        name = f"{place}.mlp{stage}"
        found.append(Size(name=name, total=size, step=MULTIPLE, least=least, members=members))
    return found


def _mlps(axes: TowerAxes) -> dict[str, Axis]:
    """What each MLP has between its two matrices, by the first one's role."""
    return {
        role: axes.axes[slot.dims[0][0]]
        for role, slot in axes.slots.items()
        if role.endswith("mlp.fc1.weight") and len(slot.dims[0]) == 1
    }


def fastvit_units(stem: int, heads: int) -> int:
    """Into how many equal parts a FastViT's width is cut: whole heads, and multiples of 8."""
    return stem // max(MULTIPLE, stem // heads)


def _width(
    place: TowerName,
    axes: TowerAxes,
    total: int,
    smallest: float,
    field: str,
    step: int,
    besides: frozenset[str] | set[str] = frozenset(),
) -> Size:
    """The size that all axes but the MLPs' grow with; an axis that does not divide stays."""

    def grows(axis: Axis) -> bool:
        kind = axis.kind in ("hidden", "inner", "heads") and axis.name not in besides
        return kind and axis.size % total == 0

    members = tuple(
        Member(tower=place, axis=axis.name, each=axis.size // total)
        for axis in axes.axes.values()
        if grows(axis)
    )
    heads = any(axes.axes[member.axis].kind == "heads" for member in members)
    # A single head cannot be told from none, so it does not inherit (docs/inheritance.md).
    least = min(total, max(_least(total, smallest, step), 2 if heads else 1))
    return Size(name=f"{place}.{field}", total=total, step=step, least=least, members=members)


def _least(total: int, smallest: float, step: int) -> int:
    return max(step, round(total * smallest / step) * step)


_RULES: dict[type, Callable[[TowerName, TowerAxes, float], list[Size] | str]] = {
    open_clip.transformer.VisionTransformer: _transformer,
    open_clip.transformer.TextTransformer: _transformer,
    timm.models.VisionTransformer: _transformer,
    timm.models.FastVit: _fastvit,
}
