"""Carry a plan out: everything is computed first, then the student changes, or nothing does."""

import math
from collections import Counter
from collections.abc import Mapping

import torch
from torch import Tensor

from students.inheritance.annotation import Slot
from students.inheritance.fingerprints import shapes_fingerprint, weights_fingerprint
from students.inheritance.plan import AxisMap, InheritancePlan, TowerPlan, Transfer, View
from students.inheritance.resampling import (
    cut_positions,
    recentre,
    resize_patches,
    resize_positions,
)
from teachers.clip_model import ClipModel, evaluating


def apply_plan(plan: InheritancePlan, student: ClipModel, donor: ClipModel) -> None:
    """Give the student the donor's weights, as planned.

    Args:
        plan: from `plan_inheritance`, or read back from its JSON.
        student: changed in place.
        donor: the one the plan was made for.

    Raises:
        ValueError: when the plan is for another student or donor; nothing is changed then.
    """
    if shapes_fingerprint(student.module) != plan.student_fingerprint:
        raise ValueError(
            f"this plan is for a student of other shapes ({plan.student}) than {student.name} "
            "has: plan_inheritance(student, donor) anew"
        )
    if weights_fingerprint(donor.module) != plan.donor_fingerprint:
        raise ValueError(
            f"this plan is for another donor, or other weights of {plan.donor}, than the given "
            f"{donor.name}: plan_inheritance(student, donor) anew"
        )
    mine, theirs = student.module.state_dict(), donor.module.state_dict()
    if any(tensor.is_meta for tensor in (*mine.values(), *theirs.values())):
        raise ValueError("a model on the meta device has no weights to give or take: load it")
    with torch.no_grad():
        new = {key: tensor.clone() for key, tensor in mine.items()}
        for tower in plan.towers.values():
            for transfer in tower.transfers:
                _write(new, theirs, tower, transfer)
        for name in plan.scalars:
            new[name].copy_(theirs[name].reshape(new[name].shape))
        with evaluating(student.module):  # which forgets what was computed from old weights
            for key, tensor in mine.items():
                tensor.copy_(new[key])


def gather_plan(plan: InheritancePlan, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Cut tensors that are shaped like the donor's weights as the plan cuts those.

    Args:
        plan: of a student whose every weight is the donor's own or a selection of it.
        values: donor key -> such a tensor; keys without a weight in the plan are left out.
    """
    sources = [
        (tower, each, each.donor)
        for tower in plan.towers.values()
        for each in tower.transfers
        if each.donor is not None and each.donor.key in values
    ]
    new: dict[str, Tensor] = {}
    for tower, transfer, source in sources:
        assert transfer.outcome in ("copied", "selected"), (transfer.role, transfer.outcome)
        maps = [[tower.axes[name] for name in dim] for dim in transfer.axes]
        found, _ = _gather(read(source, values[source.key]), maps, transfer)
        parts = 1 if transfer.student.part is None else transfer.student.part[1]
        if transfer.student.key not in new:
            new[transfer.student.key] = _room(transfer.student, found, parts, values[source.key])
        read(transfer.student, new[transfer.student.key]).copy_(found)
    return new


def _room(view: View, found: Tensor, parts: int, like: Tensor) -> Tensor:
    """An empty tensor of the student's stored shape."""
    sizes = list(found.shape[::-1] if view.transposed else found.shape)
    sizes[0] *= parts
    # Dimensions of length 1 are no part of a view.
    shape = [1 if size == 1 else sizes.pop(0) for size in like.shape]
    return torch.empty(shape, dtype=like.dtype, device=like.device)


def _write(
    new: Mapping[str, Tensor], theirs: Mapping[str, Tensor], tower: TowerPlan, transfer: Transfer
) -> None:
    target = read(transfer.student, new[transfer.student.key])
    if transfer.donor is None:
        target.zero_()
        return
    source = read(transfer.donor, theirs[transfer.donor.key]).to(target.device)
    dtype = source.dtype
    if transfer.method != "copy" or transfer.factor != 1.0 or transfer.outcome == "grown":
        source = source.double()
    maps = [[tower.axes[name] for name in dim] for dim in transfer.axes]
    gathered, known = _gather(source, maps, transfer)
    gathered = _resample(gathered, transfer) * transfer.factor
    if transfer.method == "resize_positions":
        target = target[target.shape[0] - gathered.shape[0] :]
    assert gathered.shape == target.shape, (transfer.role, gathered.shape, target.shape)
    gathered = gathered.to(dtype).to(target.dtype)
    target.copy_(gathered if known is None else torch.where(known, gathered, target))


def read(view: View, stored: Tensor) -> Tensor:
    """A stored tensor as its role's matrix."""
    slot = Slot(
        role="",
        key=view.key,
        part=view.part,
        transposed=view.transposed,
        dims=(),
        shape=view.shape,
        summed=frozenset(),
        learned=True,
    )
    return slot.read(stored)


def _gather(
    source: Tensor, maps: list[list[AxisMap]], transfer: Transfer
) -> tuple[Tensor, Tensor | None]:
    """Take the planned units along every axis; the second result marks what the donor has."""
    sizes = [
        [axis.donor_size for axis in dim] or [length]
        for dim, length in zip(maps, source.shape, strict=True)
    ]
    result = source.reshape([size for dim in sizes for size in dim])
    known: Tensor | None = None
    place = 0
    for at, dim in enumerate(maps):
        for axis in dim:
            if not axis.identity:
                index = torch.tensor(axis.indices, device=source.device)
                result = result.index_select(place, index.clamp(min=0))
                shape = [-1] + [1] * (result.ndim - place - 1)
                shares = _shares(axis, at in transfer.summed, axis.name in transfer.spread)
                if shares is not None:
                    result = result * shares.to(result).view(shape)
                if (index < 0).any():
                    has = (index >= 0).view(shape)
                    known = has if known is None else known & has
            place += 1
        place += not dim
    lengths = [
        math.prod(len(axis.indices) for axis in dim) if dim else length
        for dim, length in zip(maps, source.shape, strict=True)
    ]
    if known is not None:
        known = known.expand(result.shape).reshape(lengths)
    return result.reshape(lengths), known


def _shares(axis: AxisMap, summed: bool, spread: bool) -> Tensor | None:
    """What part of a donor unit's weight each of its copies gets; None when there are no copies.

    On the input side the parts add up to one, and differ (1 : 2 : ...), so that the copies
    learn different things; in a dot product their squares do (Net2Net, arXiv:1511.05641).
    """
    counts = Counter(axis.indices)
    if len(counts) == len(axis.indices) or not (summed or spread):
        return None
    if spread:
        return torch.tensor([counts[unit] ** -0.5 for unit in axis.indices], dtype=torch.float64)
    seen: Counter[int] = Counter()
    shares: list[float] = []
    for unit in axis.indices:
        seen[unit] += 1
        copies = counts[unit]
        shares.append(seen[unit] / (copies * (copies + 1) / 2))
    return torch.tensor(shares, dtype=torch.float64)


def _resample(weight: Tensor, transfer: Transfer) -> Tensor:
    shape = transfer.student.shape
    if transfer.method == "resize_patches":
        return resize_patches(weight, (shape[-2], shape[-1]))
    if transfer.method == "recentre":
        return recentre(weight, (shape[-2], shape[-1]))
    if transfer.method == "resize_positions":
        return resize_positions(weight, shape[0])
    if transfer.method == "cut_positions":
        return cut_positions(weight, shape[0])
    return weight
