"""Which of the donor's weights each weight of the student starts from, and over which axes.

By role, with the numbers of the blocks translated; then every student axis takes the donor axis
that most of its numbers meet. A weight whose axes do not fit keeps its own start, with the reason.
"""

from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

from students.inheritance.annotation import Slot, TowerAxes
from students.inheritance.depth import choose_blocks

BlockChoice = Callable[[str, tuple[str, ...], tuple[str, ...]], tuple[int | None, ...]]
_RESAMPLED = ("position", "patch", "kernel")


@dataclass(kw_only=True)
class Pairing:
    """What fits together in one tower.

    Attributes:
        slots: student role -> donor role.
        axes: student axis -> donor axis.
        depth: student container -> the donor's block for each of its own.
        own: student role -> why it keeps its own start.
        silent: student roles inside blocks that no donor block stands for.
        zero: student biases where the donor computes the same without one.
    """

    slots: dict[str, str] = field(default_factory=dict)
    axes: dict[str, str] = field(default_factory=dict)
    depth: dict[str, tuple[int | None, ...]] = field(default_factory=dict)
    own: dict[str, str] = field(default_factory=dict)
    silent: set[str] = field(default_factory=set)
    zero: set[str] = field(default_factory=set)


def pair(student: TowerAxes, donor: TowerAxes, choose: BlockChoice) -> Pairing:
    """Match two towers.

    Args:
        student, donor: the annotated towers.
        choose: given a container of the donor and both sides' block classes, names the donor's
            block for each of the student's.
    """
    found = Pairing()
    for role in student.slots:
        theirs, reason = _translate(role, student, donor, choose, found.depth)
        if theirs is None:
            found.own[role] = reason
            if reason == DEEPER:
                found.silent.add(role)
            elif role.endswith(".bias") and f"{role.removesuffix('bias')}weight" in student.slots:
                found.zero.add(role)
            continue
        reason = _misfit(student, donor, role, theirs)
        if reason:
            found.own[role] = reason
        else:
            found.slots[role] = theirs
    _refuse_strangers(student, found)
    _settle_axes(student, donor, found)
    found.zero = {
        role for role in found.zero if f"{role.removesuffix('bias')}weight" in found.slots
    }
    for role in found.zero:
        del found.own[role]
    return found


DEEPER = "the student has more blocks here than the donor"


def _translate(
    role: str,
    student: TowerAxes,
    donor: TowerAxes,
    choose: BlockChoice,
    depth: dict[str, tuple[int | None, ...]],
) -> tuple[str | None, str]:
    """Return the donor's role, or None and why there is none."""
    mine = theirs = ""
    for name in role.split("."):
        step = name
        # A part of a numbered container may have a role without a number (a projection's).
        if mine in student.containers and theirs in donor.containers and name.isdigit():
            ours, others = student.containers[mine], donor.containers[theirs]
            if mine not in depth:
                depth[mine] = (
                    # Stages are not interchangeable as blocks are.
                    choose_blocks("leading", ours, others)
                    if _holds_containers(student, mine)
                    else choose(theirs, ours, others)
                )
            block = depth[mine][int(name)]
            if block is None:
                here = ours[int(name)]
                if any(depth[mine][at] is not None for at, each in enumerate(ours) if each == here):
                    return None, DEEPER
                return None, f"the donor has no {here} in {theirs}"
            step = str(block)
        mine, theirs = f"{mine}.{name}".lstrip("."), f"{theirs}.{step}".lstrip(".")
    if theirs not in donor.slots:
        return None, f"the donor has no {theirs}"
    return theirs, ""


def _holds_containers(tower: TowerAxes, path: str) -> bool:
    """Whether every child of a container is, or has as a child, another: a list of stages."""
    below = [
        each.removeprefix(f"{path}.") for each in tower.containers if each.startswith(f"{path}.")
    ]
    near = {each.split(".")[0] for each in below if each.count(".") <= 1}
    return len(near) == len(tower.containers[path])


def _misfit(student: TowerAxes, donor: TowerAxes, role: str, theirs: str) -> str:
    """Why two slots cannot meet, or nothing."""
    mine, other = student.slots[role], donor.slots[theirs]
    if len(mine.dims) != len(other.dims):
        return f"shaped {list(mine.shape)} here, {list(other.shape)} in the donor"
    for one, two in zip(mine.dims, other.dims, strict=True):
        kinds, others = _kinds(student, one), _kinds(donor, two)
        if resampled(student, one) or resampled(donor, two):
            if not (resampled(student, one) and resampled(donor, two)):
                return f"an axis is {'/'.join(kinds)} here and {'/'.join(others)} in the donor"
            continue
        if len(one) != len(two):
            return (
                f"an axis is {' x '.join(kinds)} here and {' x '.join(others)} in the donor, "
                "which do not divide alike"
            )
        for a, b in zip(one, two, strict=True):
            fixed = "fixed" in (student.axes[a].kind, donor.axes[b].kind)
            if fixed and student.axes[a].size != donor.axes[b].size:
                return f"{student.axes[a].size} of {a} here, {donor.axes[b].size} in the donor"
    return ""


def resampled(tower: TowerAxes, dim: tuple[str, ...]) -> bool:
    """Whether a dimension is a grid (positions, pixels), brought to size as a whole."""
    return bool(dim) and all(tower.axes[name].kind in _RESAMPLED for name in dim)


def _kinds(tower: TowerAxes, dim: tuple[str, ...]) -> list[str]:
    return [tower.axes[name].kind for name in dim]


def _refuse_strangers(student: TowerAxes, found: Pairing) -> None:
    """Towers of different families may share a projection and a norm; that is no inheritance."""
    inside = [role for role in student.slots if _home(student, role)]
    matrices = [role for role, slot in student.slots.items() if len(slot.dims) > 1]
    if not any(role in found.slots for role in inside or matrices):
        for role in found.slots:
            found.own[role] = "the donor's tower is of another family: no block in common"
        found.slots.clear()


def _home(tower: TowerAxes, role: str) -> bool:
    return any(role.startswith(f"{path}.") for path in tower.containers)


def _settle_axes(student: TowerAxes, donor: TowerAxes, found: Pairing) -> None:
    """Give every student axis the donor axis that most numbers vote for; drop what disagrees."""
    votes: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for role, theirs in found.slots.items():
        for mine, other in _meetings(student, donor, student.slots[role], donor.slots[theirs]):
            votes[mine][other] += max(student.slots[role].shape)
    found.axes = {mine: count.most_common(1)[0][0] for mine, count in votes.items()}
    for role, theirs in list(found.slots.items()):
        for mine, other in _meetings(student, donor, student.slots[role], donor.slots[theirs]):
            # The width of queries and of values is one axis where they are one matrix, two where
            # not: as wide as each other, one choice serves both.
            if donor.axes[found.axes[mine]].size != donor.axes[other].size:
                found.own[role] = (
                    f"{mine} is the donor's {found.axes[mine]} elsewhere, {other} in this weight"
                )
                del found.slots[role]
                break


def _meetings(
    student: TowerAxes, donor: TowerAxes, mine: Slot, other: Slot
) -> list[tuple[str, str]]:
    """The pairs of axes that two slots bring together."""
    return [
        pair
        for one, two in zip(mine.dims, other.dims, strict=True)
        if not resampled(student, one)
        for pair in zip(one, two, strict=True)
    ]
