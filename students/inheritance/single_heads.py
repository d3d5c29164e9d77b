"""An attention with one head has a heads axis too: of size 1, which no operation shows.

With it a student of one head takes one of a donor's several, and several take a donor's only one.
"""

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from students.inheritance.annotation import TowerAxes


def with_single_heads(tower: "TowerAxes") -> "TowerAxes":
    """Put an axis of one head before every head's width that has none before it."""
    axes = dict(tower.axes)
    single = {name for name, axis in axes.items() if axis.kind == "head_width"}
    for slot in tower.slots.values():
        for dim in slot.dims:
            if any(axes[name].kind == "heads" for name in dim):
                single -= set(dim)
    if not single:
        return tower
    heads: dict[str, str] = {}
    for role, slot in tower.slots.items():
        for name in (name for dim in slot.dims for name in dim if name in single):
            # The queries' width may be another axis than the values': one attention, one heads.
            attention = role.rpartition(".")[0].rpartition(".")[0]
            heads.setdefault(name, f"heads of {attention}")
    for width, name in heads.items():
        axes[name] = replace(axes[width], name=name, kind="heads", size=1)
    slots = {}
    for role, slot in tower.slots.items():
        dims = tuple(
            tuple(
                each for name in dim for each in ([heads[name]] if name in heads else []) + [name]
            )
            for dim in slot.dims
        )
        slots[role] = replace(slot, dims=dims)
    return replace(tower, slots=slots, axes=axes)
