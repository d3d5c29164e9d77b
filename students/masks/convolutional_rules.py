"""What of a convolutional tower may shrink: widths, MLPs, and a ResNet's blocks."""

import math
from typing import Any

from students.inheritance.annotation import Axis, TowerAxes
from students.masks.sizes import MULTIPLE, Member, Size, depth, evenly, least_of, mlps, width
from students.student import TowerName


def fastvit(place: TowerName, axes: TowerAxes, smallest: float, part: Any) -> list[Size] | str:
    """Widths of all stages are one axis; an attention's heads of 32 grow with it."""
    units = mlps(axes)
    heads = [axis for axis in axes.axes.values() if axis.kind == "heads"]
    stem = max(axis.size for axis in axes.axes.values() if axis.kind == "hidden")
    rest = {axis.name for axis in units.values()}
    total = fastvit_units(stem, heads[0].size if heads else stem)
    found = [width(place, axes, total, smallest, "width", 1, besides=rest)]
    for stage in sorted({role.split(".")[1] for role in units}):
        mine = [axis for role, axis in units.items() if role.split(".")[1] == stage]
        found.append(evenly(place, axes, f"mlp{stage}", mine, smallest))
    return found


def fastvit_units(stem: int, heads: int) -> int:
    """Into how many equal parts a FastViT's width is cut: whole heads, and multiples of 8."""
    return stem // max(MULTIPLE, stem // heads)


def modified_resnet(
    place: TowerName, axes: TowerAxes, smallest: float, part: Any
) -> list[Size] | str:
    """All widths are one number; a stage's first block changes the shape and stays."""
    total = math.gcd(part.conv1.out_channels, part.attnpool.num_heads)
    found = [width(place, axes, total, smallest, "width", 1)]
    for stage in range(1, 5):
        name, field = f"layer{stage}", f"layers{stage}"
        found += depth(place, axes, name, field, smallest, mixed=True, first=1)
    return found


def timm_resnet(place: TowerName, axes: TowerAxes, smallest: float, part: Any) -> list[Size] | str:
    """Every stage has a width of its own; the stem's has none in timm's arguments."""
    found: list[Size] = []
    stem = {name for dim in axes.slots["layer1.0.conv1.weight"].dims[1:2] for name in dim}
    for stage in range(1, 5):
        planes = resnet_planes(part, stage)
        mine = _made_in(axes, f"layer{stage}.")
        if not stem & {axis.name for axis in mine}:
            if any(axis.size % planes for axis in mine):
                return "its groups or squeezes do not grow with its widths"
            # A first stage as wide as its stem would lose its shortcut's convolution.
            least = least_of(planes, smallest, MULTIPLE)
            if stage == 1:
                least = max(least, (_stem_width(part) // part.layer1[0].expansion) + MULTIPLE)
            members = tuple(
                Member(tower=place, axis=axis.name, each=axis.size // planes) for axis in mine
            )
            if least < planes:
                name = f"{place}.width{stage}"
                found.append(
                    Size(name=name, total=planes, step=MULTIPLE, least=least, members=members)
                )
        name, field = f"layer{stage}", f"layers{stage}"
        found += depth(place, axes, name, field, smallest, mixed=True, first=1)
    return found or "nothing of it can shrink"


def resnet_planes(part: Any, stage: int) -> int:
    """What timm calls a stage's channels: its output's, by the blocks' expansion."""
    block = getattr(part, f"layer{stage}")[0]
    last = block.conv3 if hasattr(block, "conv3") else block.conv2
    return last.out_channels // block.expansion


def _stem_width(part: Any) -> int:
    return part.layer1[0].conv1.in_channels


def _made_in(axes: TowerAxes, start: str) -> list[Axis]:
    """The axes that the weights of one part write to."""
    names = {
        name: None
        for role, slot in axes.slots.items()
        if role.startswith(start)
        for at, dim in enumerate(slot.dims)
        if at not in slot.summed
        for name in dim
    }
    return [axes.axes[name] for name in names if axes.axes[name].kind in ("hidden", "inner")]
