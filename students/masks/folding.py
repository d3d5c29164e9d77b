"""Folding: the masked student becomes the ordinary, smaller one that it already computes as.

Gates are multiplied into the weights that read, closed units are left out, and the rest is plain
inheritance (`students.inheritance`) with the learned order as selector. The same order, kept in
`masks.json` beside the full-size student, is what the selector "learned" reads: it then serves
students of any narrower shape.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from students.inheritance.annotation import Annotation
from students.inheritance.applying import apply_plan
from students.inheritance.plan import InheritancePlan
from students.inheritance.planning import plan_inheritance
from students.inheritance.selectors import Learned
from students.masks.masking import bake, unmask
from students.masks.masks import Masks
from students.masks.shrinking import shrunk_student
from students.masks.sizes import Size
from students.student import Student, TowerName

MASKS_FILE = "masks.json"
FORMAT = 1
_TOWERS: tuple[TowerName, ...] = ("image", "text")


@dataclass(frozen=True, kw_only=True)
class Folded:
    """The smaller student and how it came about.

    Attributes:
        student: ordinary; in evaluation mode.
        plan: which units and blocks it has of the large one.
    """

    student: Student
    plan: InheritancePlan


def fold(
    student: Student, masks: Masks, sizes: Mapping[str, int], name: str | None = None
) -> Folded:
    """Take the masks out and cut what they closed; `student` is left unmasked at full size.

    Args:
        student: masked.
        masks: in it.
        sizes: what to keep, as of `Masks.within`.
        name: of the smaller student.
    """
    masks.choose(sizes)
    baked = bake(student)
    unmask(student)
    with torch.no_grad():
        for key, tensor in student.module.state_dict().items():
            if key in baked:
                tensor.copy_(baked[key])
    small = shrunk_student(student, sizes, name)
    parameter = next(student.module.parameters())
    small.to(device=parameter.device, dtype=parameter.dtype)
    plan = plan_inheritance(small, student, selector=Learned(scores=masks.scores()))
    missing = [key for tower in plan.towers.values() for key in tower.own]
    assert not missing, f"the smaller student has weights the large one lacks: {missing}"
    for size in masks.sizes.values():
        for member in (each for each in size.members if not each.blocks):
            mine = plan.towers[member.tower].axes.values()
            found = {len(axis.indices) for axis in mine if axis.donor == member.axis}
            assert found <= {member.kept(sizes[size.name])}, (member, found, sizes)
    apply_plan(plan, small, student)
    return Folded(student=small.eval(), plan=plan)


def check_foldable(student: Student, annotation: Annotation, sizes: Sequence[Size]) -> None:
    """Build the smallest student and compare it with what folding would cut.

    Before anything is trained: a configuration may say less than masks find.

    Raises:
        ValueError: a weight of the smallest student is not shaped as the cut one would be.
    """
    state = torch.get_rng_state()
    small = shrunk_student(student, {size.name: size.least for size in sizes})
    torch.set_rng_state(state)
    kept = {(m.tower, m.axis): m.kept(size.least) for size in sizes for m in size.members}
    built = small.module.state_dict()
    slots = [
        (tower, axes.axes, slot)
        for tower, axes in annotation.towers.items()
        for slot in axes.slots.values()
        if slot.key in built  # not where its block goes
    ]
    for tower, axes, slot in slots:
        names = [name for dim in slot.dims for name in dim]
        numbers = math.prod(kept.get((tower, name), axes[name].size) for name in names)
        parts = slot.part[1] if slot.part else 1
        if built[slot.key].numel() != numbers * parts:
            raise ValueError(
                f"{slot.key} of {student.name} does not shrink as masks would cut it: a smaller "
                f"student has {tuple(built[slot.key].shape)}, the masks would leave "
                f"{numbers * parts} numbers. Leave the {tower} tower out of masks.towers"
            )


def write_masks(folder: Path, masks: Masks, sizes: Mapping[str, int]) -> None:
    """Write the learned order beside a student's weights."""
    scores = [[*place, values] for place, values in masks.scores().items()]
    values = {"format": FORMAT, "sizes": dict(sizes), "scores": scores}
    (folder / MASKS_FILE).write_text(json.dumps(values) + "\n", encoding="utf-8")


def read_masks(folder: str | Path) -> Learned:
    """Read the learned order from a masked run's folder, as a selector.

    Raises:
        ValueError: there is none, or it has another format.
    """
    path = Path(folder) / MASKS_FILE
    if not path.is_file():
        raise ValueError(
            f"selector 'learned' needs a donor that was trained with masks, and {folder} has no "
            f"{MASKS_FILE}: give the folder OUT/stages/1-masks of a run of tinyclip_auto"
        )
    values = json.loads(path.read_text(encoding="utf-8"))
    if values.get("format") != FORMAT:
        raise ValueError(
            f"{path} has format {values.get('format')!r}, this version reads format {FORMAT}: "
            "train the masks anew"
        )
    scores: dict[tuple[TowerName, str], list[float]] = {}
    for tower, axis, numbers in values["scores"]:
        assert tower in _TOWERS
        scores[tower, axis] = numbers
    return Learned(scores=scores)
