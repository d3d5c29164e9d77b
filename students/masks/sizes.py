"""What of a student may shrink, as numbers.

A size is a number in a tower's configuration: its width, its MLPs' width, its blocks. Its members
are the axes (found by tracing, `students.inheritance.annotation`) that grow with it; every member
gets a mask of its own, and all members keep the same share. So what is found is an even shape,
which open_clip, timm and transformers can build, while each layer still chooses its own units.
TinyCLIP's layers have as many heads and units each as they like, which needs model code and
attention of its own. There a head is as wide as it was; open_clip's, timm's and BERT's attention is
as wide as the stream: width and heads are one size. Which tower has which: `families`.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from students.inheritance.annotation import Axis, TowerAxes
from students.student import TowerName

MULTIPLE = 8
# open_clip's own layers after a timm tower; what they have inside follows the embedding.
HEAD = "head."


@dataclass(frozen=True, kw_only=True)
class Member:
    """One axis, or one container of blocks, that grows with a size.

    Attributes:
        tower: where it is.
        axis: the axis's name, or the container's role path.
        each: units of the axis for one of the size.
        plus: units of the axis that there are besides.
        blocks: whether it is a container.
        first: so many blocks at its front always stay (those that change the shape).
        mixed: what a block adds cannot be scaled in its last weights, because a norm or an
            activation follows the sum; its output is mixed with its input instead, and a block
            that stays is whole.
    """

    tower: TowerName
    axis: str
    each: int = 1
    plus: int = 0
    blocks: bool = False
    first: int = 0
    mixed: bool = False

    def kept(self, size: int) -> int:
        """How many units stay at a size."""
        return self.each * size + self.plus


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


def mlps(axes: TowerAxes) -> dict[str, Axis]:
    """What each MLP has between its two matrices, by the first one's role."""
    return {
        role: axes.axes[slot.dims[0][0]]
        for role, slot in axes.slots.items()
        if role.endswith("mlp.fc1.weight") and len(slot.dims[0]) == 1 and not role.startswith(HEAD)
    }


def evenly(
    place: TowerName, axes: TowerAxes, field: str, members: Sequence[Axis], smallest: float
) -> Size:
    """A size that is the length of all its members."""
    total = members[0].size
    return Size(
        name=f"{place}.{field}",
        total=total,
        step=MULTIPLE,
        least=min(total, least_of(total, smallest, MULTIPLE)),
        members=tuple(Member(tower=place, axis=axis.name) for axis in members),
    )


def depth(
    place: TowerName,
    axes: TowerAxes,
    container: str,
    field: str,
    smallest: float,
    *,
    mixed: bool = False,
    first: int = 0,
) -> list[Size]:
    """How many blocks there are; none where there is but one."""
    total = len(axes.containers.get(container, ()))
    if total < 2:
        return []
    member = Member(tower=place, axis=container, blocks=True, mixed=mixed, first=first)
    least = least_of(total, smallest, 1)
    return [Size(name=f"{place}.{field}", total=total, least=least, members=(member,))]


def width(
    place: TowerName,
    axes: TowerAxes,
    total: int,
    smallest: float,
    field: str,
    step: int,
    besides: Collection[str] = frozenset(),
) -> Size:
    """The size that all axes but the MLPs' grow with; an axis that does not divide stays."""

    after = {
        name
        for role, slot in axes.slots.items()
        if role.startswith(HEAD)
        for at, dim in enumerate(slot.dims)
        if at not in slot.summed
        for name in dim
    }

    def grows(axis: Axis) -> bool:
        kind = axis.kind in ("hidden", "inner", "heads")
        return kind and axis.name not in {*besides, *after} and axis.size % total == 0

    members = tuple(
        Member(tower=place, axis=axis.name, each=axis.size // total)
        for axis in axes.axes.values()
        if grows(axis)
    )
    least = min(total, least_of(total, smallest, step))
    return Size(name=f"{place}.{field}", total=total, step=step, least=least, members=members)


def least_of(total: int, smallest: float, step: int) -> int:
    """The share `smallest` of a size, as a multiple of its step."""
    return max(step, round(total * smallest / step) * step)
