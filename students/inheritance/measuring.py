"""What a donor does on data: what every unit passes on, what the loss loses without it, which
blocks change what flows through them, what its LayerNorms see.

A batch is (pixels, token ids) as the donor wants them. Every measurement leaves the donor as it
was, in evaluation mode, gradients included.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from students.inheritance.annotation import Annotation, Slot, TowerAxes
from students.inheritance.tracing import watching
from students.student import TowerName
from teachers.clip_model import ClipModel, evaluating, unit_rows

Batch = tuple[Tensor, Tensor]
# The donor's module and a batch -> a scalar.
Loss = Callable[[nn.Module, Batch], Tensor]
# Enough for one number a LayerNorm, and little to keep.
_NORM_ROWS, _NORM_ROWS_OF_A_BATCH = 512, 64
_METHODS: dict[TowerName, str] = {"image": "encode_image", "text": "encode_text"}


@dataclass(kw_only=True)
class Measurement:
    """What was seen.

    Attributes:
        inputs: key -> mean square of each of its inputs, flat over its summed dimension.
        taylor: (key and part, number of the axis in the slot) -> a score for each of its units.
        normed: key of a LayerNorm's weight -> some of what it was given, (rows, units).
        changes: (tower, container) -> 1 - cosine of input and output, for each block.
    """

    inputs: dict[str, Tensor] = field(default_factory=dict)
    taylor: dict[tuple[str, int], Tensor] = field(default_factory=dict)
    normed: dict[str, Tensor] = field(default_factory=dict)
    changes: dict[tuple[TowerName, str], dict[int, float]] = field(default_factory=dict)


def measure(
    donor: ClipModel,
    annotation: Annotation,
    batches: Iterable[Batch],
    *,
    what: Iterable[str],
    loss: Loss | None = None,
) -> Measurement:
    """Run the donor over batches, once.

    Args:
        donor: in float32 or float64.
        annotation: the donor's.
        batches: at least one; pixels `(n, 3, size, size)`, token ids `(n, context)`.
        what: any of "activation", "taylor", "similarity", "norms".
        loss: for "taylor"; the contrastive loss over the batch by default.

    Raises:
        ValueError: when there is no batch.
    """
    wanted = set(what)
    seen = Measurement()
    count = 0
    squares: defaultdict[str, list[Any]] = defaultdict(lambda: [0.0, 0])
    angles: defaultdict[tuple[TowerName, str, int], list[float]] = defaultdict(list)
    for pixels, tokens in batches:
        count += 1
        batch = (pixels.to(donor.device), tokens.to(donor.device))
        if wanted & {"activation", "norms"}:
            _measure_inputs(donor.module, batch, squares, seen.normed)
        if "similarity" in wanted:
            _measure_changes(donor.module, annotation, batch, angles)
        if "taylor" in wanted:
            _measure_taylor(donor.module, annotation, batch, loss or contrastive, seen.taylor)
    if not count:
        raise ValueError("no batch to measure the donor on: batches is empty")
    seen.inputs = {key: total / rows for key, (total, rows) in squares.items()}
    for (tower, container, block), found in angles.items():
        home = seen.changes.setdefault((tower, container), {})
        home[block] = sum(found) / len(found)
    return seen


def contrastive(module: nn.Module, batch: Batch) -> Tensor:
    """CLIP's symmetric loss over one batch, from the module's own logit scale."""
    encoders: Any = module
    image, text = (
        unit_rows(encoders.encode_image(batch[0])),
        unit_rows(encoders.encode_text(batch[1])),
    )
    logits = encoders.logit_scale.exp() * image @ text.T
    targets = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, targets) + F.cross_entropy(logits.T, targets)) / 2


def _measure_inputs(
    module: nn.Module, batch: Batch, squares: dict[str, list[Any]], normed: dict[str, Tensor]
) -> None:
    def listen(what: str, key: str, activation: Tensor, at: int) -> None:
        rows = activation.detach().movedim(at, -1).flatten(0, -2)
        if what == "product":
            squares[key][0] += rows.float().square().sum(0).cpu()
            squares[key][1] += len(rows)
        elif what == "norm":
            before = normed.get(key, torch.empty(0, rows.shape[1], dtype=torch.float64))
            some = rows[:: -(-len(rows) // _NORM_ROWS_OF_A_BATCH)]
            normed[key] = torch.cat([before, some.double().cpu()])[:_NORM_ROWS]

    for method, inputs in zip(_METHODS.values(), batch, strict=True):
        with watching(module, inputs, listen):
            getattr(module, method)(inputs)


def _measure_changes(
    module: nn.Module, annotation: Annotation, batch: Batch, angles: dict[Any, list[float]]
) -> None:
    def watch(name: tuple[TowerName, str, int]) -> Callable[[nn.Module, Any, Any], None]:
        def hook(_: nn.Module, given: Any, out: Any) -> None:
            before = given[0] if isinstance(given, tuple) and given else given
            if not isinstance(out, Tensor) or not isinstance(before, Tensor):
                return
            if before.shape != out.shape:
                angles[name].append(float("inf"))  # it changes the shape: nothing can skip it
                return
            cosine = F.cosine_similarity(before.flatten(1).float(), out.flatten(1).float())
            angles[name].append(1 - cosine.mean().item())

        return hook

    for (tower, method), inputs in zip(_METHODS.items(), batch, strict=True):
        handles = [
            block.register_forward_hook(watch((tower, container, number)))
            for container, path in annotation.towers[tower].homes.items()
            for number, block in enumerate(module.get_submodule(path).children())
        ]
        try:
            with evaluating(module), torch.no_grad():
                getattr(module, method)(inputs)
        finally:
            for handle in handles:
                handle.remove()


def _measure_taylor(
    module: nn.Module,
    annotation: Annotation,
    batch: Batch,
    loss: Loss,
    scores: dict[tuple[str, int], Tensor],
) -> None:
    named = dict(module.named_parameters())
    wanted = {name: value.requires_grad for name, value in named.items()}
    try:
        module.requires_grad_(True)
        with evaluating(module), torch.enable_grad():
            gradients = torch.autograd.grad(
                loss(module, batch), list(named.values()), allow_unused=True
            )
    finally:
        for name, value in named.items():
            value.requires_grad_(wanted[name])
    products = {
        name: (value.detach() * gradient).float().cpu()
        for (name, value), gradient in zip(named.items(), gradients, strict=True)
        if gradient is not None
    }
    for tower in annotation.towers.values():
        for slot in tower.slots.values():
            if slot.key in products:
                product = slot.read(products[slot.key])
                for number in range(sum(map(len, slot.dims))):
                    change = by_unit(tower, slot, product, number).sum(1).square()
                    where = (slot_id(slot), number)
                    scores[where] = scores[where] + change if where in scores else change


def slot_id(slot: Slot) -> str:
    """Name a slot within both towers: its key, and its part where it has one."""
    return slot.key if slot.part is None else f"{slot.key} [{slot.part[0]}]"


def by_unit(tower: TowerAxes, slot: Slot, tensor: Tensor, number: int) -> Tensor:
    """Bring the slot's axis of this number to the front and flatten the rest: (units, rest)."""
    sizes = [tower.axes[name].size for dim in slot.dims for name in dim]
    return tensor.reshape(sizes).movedim(number, 0).reshape(sizes[number], -1)


def inputs_by_unit(
    tower: TowerAxes, slot: Slot, squares: Tensor, axis: str, dim: int
) -> Tensor | None:
    """Root mean square of an axis's units as a slot's inputs; None where it is no input."""
    if dim not in slot.summed:
        return None
    names = slot.dims[dim]
    units = squares.reshape([tower.axes[name].size for name in names])
    units = units.movedim(names.index(axis), 0)
    return units.reshape(len(units), -1).mean(1).sqrt()
