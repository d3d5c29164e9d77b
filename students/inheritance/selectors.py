"""Which units of a wide axis a narrow one keeps.

"leading" takes the first (TinyCLIP's manual inheritance, arXiv:2309.12314); "uniform" every so
many-th (weight selection, arXiv:2311.18823); the others the units with the largest scores, in
their old order. A score belongs to an axis, summed over all weights that carry it: whole heads,
whole hidden units. Where student and donor are equally wide every selector keeps everything.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from students.student import TowerName

SELECTORS = ("leading", "uniform", "magnitude", "activation", "taylor")
# By number, as published; the weights stay as they are.
PUBLISHED = ("leading", "uniform")
MEASURED = ("activation", "taylor")


@dataclass(frozen=True, kw_only=True)
class Carrier:
    """One donor weight as an axis sees it.

    Attributes:
        role: its name within the tower.
        weight: float32, the axis's units first, all else flattened.
        reads: the weight is summed over the axis; else it writes to it or scales it.
        taylor: squared change of the loss without each unit's part of the weight, to first order;
            None unless it was measured.
        inputs: root mean square of what each unit feeds into the weight; None unless the weight is
            summed over the axis and it was measured.
    """

    role: str
    weight: Float[Tensor, "units rest"]
    reads: bool
    taylor: Float[Tensor, " units"] | None = None
    inputs: Float[Tensor, " units"] | None = None


@dataclass(frozen=True, kw_only=True)
class Learned:
    """The order that masks learned (`students.masks`): a score for every unit of a masked axis,
    and for every block of a masked container. Axes without one go by magnitude, and their blocks
    evenly.
    """

    scores: Mapping[tuple[TowerName, str], Sequence[float]]

    def best(self, place: tuple[TowerName, str], wanted: int) -> tuple[int, ...] | None:
        """The `wanted` best, in their old order; None where nothing was learned."""
        scores = self.scores.get(place)
        if scores is None or wanted >= len(scores):
            return None
        order = torch.tensor(scores).argsort(descending=True, stable=True)
        return tuple(sorted(order[:wanted].tolist()))


# The weights that carry one axis -> a score for each of its units.
Scorer = Callable[[Sequence[Carrier]], Float[Tensor, " units"]]
Selector = str | Scorer | Learned


def magnitude(carriers: Sequence[Carrier]) -> Float[Tensor, " units"]:
    """How much is written to a unit times how much is read from it.

    Each a sum of squared norms over the weights that do so. A plain sum over all weights would
    keep a unit that is written and never read.
    """
    sides = [[each for each in carriers if each.reads is reads] for reads in (False, True)]
    sums = [_sum(side, [each.weight.square().sum(1) for each in side]) for side in sides if side]
    return torch.stack(sums).prod(0)


def activation(carriers: Sequence[Carrier]) -> Float[Tensor, " units"]:
    """What a unit passes on: its root mean square times its outgoing norm (arXiv:2306.11695)."""
    passed = [each.inputs * each.weight.norm(dim=1) for each in carriers if each.inputs is not None]
    # An axis that nothing sums over (a BatchNorm's alone) has only its magnitude.
    return _sum(carriers, passed) if passed else magnitude(carriers)


def taylor(carriers: Sequence[Carrier]) -> Float[Tensor, " units"]:
    """The squared first-order change of the loss when a unit is not read (arXiv:1906.10771)."""
    readers = [each for each in carriers if each.reads] or carriers
    changes = [each.taylor for each in readers if each.taylor is not None]
    return torch.stack(changes).sum(0) if changes else magnitude(carriers)


SCORERS: dict[str, Scorer] = {"magnitude": magnitude, "activation": activation, "taylor": taylor}


def _sum(carriers: Sequence[Carrier], scores: Sequence[Tensor]) -> Tensor:
    """Every weight has one vote: a table of words does not outweigh twelve blocks."""
    total = torch.zeros(carriers[0].weight.shape[0])
    for score in scores:
        mean = score.mean()
        total += score / mean if mean > 0 else score
    return total


def choose_units(
    selector: Selector, wanted: int, size: int, carriers: Callable[[], Sequence[Carrier]]
) -> tuple[int, ...]:
    """Name the donor's unit for each of `wanted` units; a wider student repeats the donor's.

    Raises:
        ValueError: when a selector of the user's own returns no score per unit.
    """
    if wanted >= size:
        return tuple(unit % size for unit in range(wanted))
    if selector == "leading":
        return tuple(range(wanted))
    if selector == "uniform":
        return tuple(unit * size // wanted for unit in range(wanted))
    if isinstance(selector, Learned):
        selector = "magnitude"
    scorer = SCORERS[selector] if isinstance(selector, str) else selector
    scores = scorer(carriers())
    if scores.shape != (size,) or not scores.isfinite().all():
        got = f"{int((~scores.isfinite()).sum())} that are not finite, shape {list(scores.shape)}"
        raise ValueError(
            f"the selector must return one finite score for each of {size} units, got {got}"
        )
    kept = scores.argsort(descending=True, stable=True)[:wanted]
    return tuple(sorted(kept.tolist()))
