"""One tower's part of a plan: an index map per axis, then a transfer per weight."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from students.inheritance.annotation import Annotation, Slot, TowerAxes
from students.inheritance.measuring import Measurement, by_unit, inputs_by_unit, slot_id
from students.inheritance.norm_gains import fitted_gain, silent_gain
from students.inheritance.pairing import Pairing, resampled
from students.inheritance.plan import AxisMap, Method, Outcome, TowerPlan, Transfer, View
from students.inheritance.resampling import grid_of
from students.inheritance.selectors import PUBLISHED, Carrier, Learned, Selector, choose_units
from students.inheritance.vocabulary import shared_tokens
from students.student import TowerName
from teachers.contract import Tokenizer


@dataclass(frozen=True, kw_only=True)
class Context:
    """Everything that deciding about a tower needs to see."""

    student: Annotation
    donor: Annotation
    pairings: Mapping[TowerName, Pairing]
    weights: Mapping[str, Tensor]
    seen: Measurement
    tokenizers: tuple[Tokenizer, Tokenizer]


def plan_tower(
    context: Context, tower: TowerName, selector: Selector, depth_rule: str
) -> TowerPlan:
    """Decide about every weight of one tower."""
    pairing = context.pairings[tower]
    mine = context.student.towers[tower]
    axes = {
        name: _axis_map(context, tower, name, theirs, selector)
        for name, theirs in pairing.axes.items()
    }
    own = dict(pairing.own)
    transfers: list[Transfer] = []
    for role, theirs in pairing.slots.items():
        made = _transfer(context, tower, axes, role, theirs)
        if isinstance(made, str):
            own[role] = made
        else:
            transfers.append(made)
    silenced = _silence(mine, pairing.silent)
    for role in silenced:
        del own[role]
    transfers += [_zero(mine.slots[role], "silenced") for role in silenced]
    # A bias that the donor does not have is a bias of zero.
    transfers += [_zero(mine.slots[role], "copied") for role in sorted(pairing.zero)]
    return TowerPlan(
        selector=selector_name(selector),
        depth_rule=depth_rule,
        axes={name: axis for name, axis in axes.items() if axis is not None},
        depth=pairing.depth,
        transfers=tuple(transfers),
        own={slot_id(mine.slots[role]): reason for role, reason in own.items()},
        own_sizes={slot_id(mine.slots[role]): math.prod(mine.slots[role].shape) for role in own},
    )


def selector_name(selector: Selector) -> str:
    """What a plan calls a selector."""
    if isinstance(selector, Learned):
        return "learned"
    return selector if isinstance(selector, str) else getattr(selector, "__name__", "custom")


def _axis_map(
    context: Context, tower: TowerName, name: str, theirs: str, selector: Selector
) -> AxisMap | None:
    mine = context.student.towers[tower].axes[name]
    donor = context.donor.towers[tower].axes[theirs]
    indices: tuple[int, ...] | None
    if "vocabulary" in (mine.kind, donor.kind):
        rows = shared_tokens(*context.tokenizers, mine.size)
        if rows is None:
            return None
        indices = tuple(row if row < donor.size else -1 for row in rows)
        chosen = "tokens"
    else:
        # The embedding is one axis of both towers: what one keeps the other keeps.
        shared = "embed" in (mine.kind, donor.kind)
        places: list[TowerName] = list(context.pairings) if shared else [tower]
        learned = (
            selector.best((tower, theirs), mine.size) if isinstance(selector, Learned) else None
        )
        indices = learned or choose_units(
            selector, mine.size, donor.size, lambda: _carriers(context, places, theirs)
        )
        chosen = selector_name(selector) if mine.size < donor.size else "all"
    return AxisMap(
        name=name,
        donor=theirs,
        kind=mine.kind,
        donor_size=donor.size,
        indices=indices,
        selector=chosen,
    )


def _carriers(context: Context, places: Collection[TowerName], axis: str) -> list[Carrier]:
    """The donor's weights that carry an axis and that a student weight starts from."""
    found: list[Carrier] = []
    for place in places:
        tower = context.donor.towers[place]
        for role in dict.fromkeys(context.pairings[place].slots.values()):
            slot = tower.slots[role]
            if slot.learned and not role.endswith("bias"):
                found += [_carrier(context, tower, slot, axis, *at) for at in slot.places(axis)]
    return found


def _carrier(
    context: Context, tower: TowerAxes, slot: Slot, axis: str, number: int, dim: int
) -> Carrier:
    stored = context.weights[slot.key]
    if stored.is_meta:
        raise ValueError(
            "the donor is on the meta device: its weights have no values to choose by. Load it, "
            'or select "leading" or "uniform"'
        )
    squares = context.seen.inputs.get(slot.key)
    inputs = None if squares is None else inputs_by_unit(tower, slot, squares, axis, dim)
    return Carrier(
        role=slot.role,
        weight=by_unit(tower, slot, slot.read(stored.detach().float().cpu()), number),
        reads=dim in slot.summed,
        taylor=context.seen.taylor.get((slot_id(slot), number)),
        inputs=inputs,
    )


def _transfer(
    context: Context,
    tower: TowerName,
    axes: Mapping[str, AxisMap | None],
    role: str,
    theirs: str,
) -> Transfer | str:
    """Decide about one weight: a transfer, or why there is none."""
    mine = context.student.towers[tower]
    slot, source = mine.slots[role], context.donor.towers[tower].slots[theirs]
    method = _method(mine, slot, source, tower)
    if method is None:
        return f"a grid of {list(slot.shape)} cannot come from one of {list(source.shape)}"
    names = tuple(() if resampled(mine, dim) else dim for dim in slot.dims)
    maps = [axes[name] for dim in names for name in dim]
    if any(each is None for each in maps):
        return "the vocabularies of the two tokenizers cannot be compared"
    known = {each.name: each for each in maps if each is not None}
    spread, factor = _spread(mine, slot, known)
    if theirs in context.donor.towers[tower].norms:
        factor *= _norm_gain(context, tower, source, list(known.values()))
    return Transfer(
        role=role,
        student=view(slot),
        donor=view(source),
        axes=names,
        summed=tuple(sorted(slot.summed)),
        spread=spread,
        method=method,
        factor=factor,
        outcome=_outcome(method, known),
    )


def view(slot: Slot) -> View:
    """Where a slot is stored."""
    return View(key=slot.key, shape=slot.shape, part=slot.part, transposed=slot.transposed)


def _method(tower: TowerAxes, slot: Slot, source: Slot, name: TowerName) -> Method | None:
    """How grids are brought to size; None when they cannot be."""
    grids = [at for at, dim in enumerate(slot.dims) if resampled(tower, dim)]
    if all(slot.shape[at] == source.shape[at] for at in grids):
        return "copy"
    kinds = {tower.axes[axis].kind for at in grids for axis in slot.dims[at]}
    if kinds == {"position"}:
        if grids != [0] or len(slot.dims) != 2:
            return None
        if name == "text":
            return "cut_positions"
        grids_fit = grid_of(slot.shape[0]) and grid_of(source.shape[0])
        return "resize_positions" if grids_fit else None
    if grids != [len(slot.dims) - 2, len(slot.dims) - 1]:
        return None
    return "resize_patches" if kinds == {"patch"} else "recentre"


def _spread(
    tower: TowerAxes, slot: Slot, known: Mapping[str, AxisMap]
) -> tuple[tuple[str, ...], float]:
    """Axes that end in a dot product: the embedding's, and the width of queries and keys.

    Attention divides by the root of the heads' width, so queries and keys of another width are
    scaled to give the donor's logits.
    """
    asks = slot.role.split(".")[-2:-1] in (["q"], ["k"], ["q_proj"], ["k_proj"])
    spread: list[str] = []
    factor = 1.0
    for name, axis in known.items():
        if axis.kind == "embed" and not any(_reads(each, name) for each in tower.slots.values()):
            spread.append(name)
        if axis.kind == "head_width" and asks and not _reads(slot, name):
            spread.append(name)
            factor *= (len(axis.indices) / axis.donor_size) ** 0.25
    return tuple(spread), factor


def _norm_gain(context: Context, tower: TowerName, source: Slot, axes: Sequence[AxisMap]) -> float:
    """What multiplies a LayerNorm's weight because other units are counted."""
    # Masks learned with LayerNorms that count the open units alone: nothing is to be made up for.
    kept_as_is = (*PUBLISHED, "learned")
    if len(axes) != 1 or axes[0].identity or axes[0].selector in kept_as_is:
        return 1.0
    (axis,) = axes
    if source.key in context.seen.normed:
        return fitted_gain(context.seen.normed[source.key], axis.indices)
    return silent_gain(context.donor.towers[tower], context.weights, axis.donor, axis.indices)


def _reads(slot: Slot, axis: str) -> bool:
    return any(dim in slot.summed for _, dim in slot.places(axis))


def _outcome(method: Method, known: Mapping[str, AxisMap]) -> Outcome:
    if method != "copy":
        return "resampled"
    units = [axis for axis in known.values() if axis.kind != "vocabulary"]
    if any(len(axis.indices) > axis.donor_size for axis in units):
        return "grown"
    return "copied" if all(axis.identity for axis in known.values()) else "selected"


def _silence(tower: TowerAxes, roles: set[str]) -> list[str]:
    """Extra blocks of a deeper student add nothing yet: what they write to the stream is zero."""
    writers = [
        role for role in roles if tower.slots[role].summed and _writes(tower, tower.slots[role])
    ]
    biases = {f"{role.removesuffix('weight')}bias" for role in writers}
    return sorted({*writers, *(biases & roles)})


def _writes(tower: TowerAxes, slot: Slot) -> bool:
    """Whether a matrix adds to a residual stream."""
    outputs = [dim for at, dim in enumerate(slot.dims) if at not in slot.summed]
    return any(tower.axes[name].kind == "hidden" for dim in outputs for name in dim)


def _zero(slot: Slot, outcome: Outcome) -> Transfer:
    return Transfer(role=slot.role, student=view(slot), donor=None, method="zero", outcome=outcome)
