"""What of a transformer may shrink: its heads with its width, its MLPs, its blocks."""

from dataclasses import replace
from typing import Any

import timm

from students.inheritance.annotation import TowerAxes
from students.masks.sizes import Member, Size, depth, evenly, mlps, width
from students.student import TowerName


def transformer(place: TowerName, axes: TowerAxes, smallest: float, part: Any) -> list[Size] | str:
    """A block's sum is followed by nothing; a head is as wide as it was."""
    heads = [axis for axis in axes.axes.values() if axis.kind == "heads"]
    units = list(mlps(axes).values())
    if not heads or not units or "blocks" not in axes.containers:
        return "its blocks were not understood"
    rest = {axis.name for axis in units}
    found = [evenly(place, axes, "mlp", units, smallest)]
    total = heads[0].size
    if _width_is_free(axes, part) and total > 1:
        found.insert(0, width(place, axes, total, smallest, "heads", 1, besides=rest))
    return [*found, *depth(place, axes, "blocks", "layers", smallest)]


def _width_is_free(axes: TowerAxes, part: Any) -> bool:
    """Not where the width is the embedding's (no projection follows), or a stem's own."""
    stem = getattr(part, "patch_embed", None)
    hybrid = stem is not None and not isinstance(stem, timm.layers.PatchEmbed)
    return "projection.weight" in axes.slots and not hybrid


def bert(place: TowerName, axes: TowerAxes, smallest: float, part: Any) -> list[Size] | str:
    """As other transformers, but a LayerNorm follows every sum."""
    heads = [axis for axis in axes.axes.values() if axis.kind == "heads"]
    units = list(mlps(axes).values())
    if not heads or not units:
        return "its blocks were not understood"
    found = [evenly(place, axes, "mlp", units, smallest)]
    head = part.config.hidden_size // heads[0].size
    first = axes.slots.get("projection.0.weight")
    middle = axes.axes[first.dims[0][0]] if first else None
    free = "projection.weight" in axes.slots and not (middle and head % 2)
    if free and heads[0].size > 1:
        rest = {axis.name for axis in (*units, *([middle] if middle else []))}
        grown = width(place, axes, heads[0].size, smallest, "heads", 1, besides=rest)
        more: tuple[Member, ...] = ()
        if middle:
            # open_clip puts (width + embedding) / 2 units between the two.
            plus = middle.size - part.config.hidden_size // 2
            more = (Member(tower=place, axis=middle.name, each=head // 2, plus=plus),)
        found.insert(0, replace(grown, members=(*grown.members, *more)))
    return [*found, *depth(place, axes, "blocks", "layers", smallest, mixed=True)]
