"""What a student of given sizes costs: a sum of products of sizes, so it has a gradient.

Parameters: read off the annotated weights, embedding tables included (TinyCLIP leaves them out: a
narrower text tower saves most there). Latency: a linear model over the same products without the
tables, fitted (non-negative least squares) to times of students of other sizes that were measured
on this machine, one row a batch; only as true as the machine is the one that ships.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import nnls
from torch import Tensor

from students.inheritance.annotation import Annotation, Slot
from students.masks.sizes import Member, Size
from students.student import TowerName

# Names of sizes, sorted, repeated where a weight has one twice -> how much each product counts.
Product = tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Cost:
    """A sum of products of sizes.

    Attributes:
        unit: what it counts: "parameters" or "ms".
        terms: product of sizes -> its factor.
    """

    unit: str
    terms: Mapping[Product, float]

    def of(self, sizes: Mapping[str, Tensor | float | int]) -> Tensor:
        """The cost at given sizes, which need not be whole."""
        total = torch.zeros((), dtype=torch.float64)
        for product, factor in self.terms.items():
            term = torch.tensor(factor, dtype=torch.float64)
            for name in product:
                term = term * sizes[name]
            total = total + term
        return total

    def as_json(self) -> dict:
        """JSON values; `Cost.from_json` reads them back."""
        terms = [[list(product), factor] for product, factor in self.terms.items()]
        return {"unit": self.unit, "terms": terms}

    @classmethod
    def from_json(cls, values: dict) -> "Cost":
        """Rebuild from `as_json()`."""
        terms = {tuple(product): factor for product, factor in values["terms"]}
        return cls(unit=values["unit"], terms=terms)


def parameter_cost(annotation: Annotation, sizes: Sequence[Size]) -> Cost:
    """Count the learned numbers of the towers that may shrink, as a function of the sizes."""
    terms: defaultdict[Product, float] = defaultdict(float)
    for slot, product, factor in _products(annotation, sizes):
        if slot.learned:
            terms[product] += factor
    return Cost(unit="parameters", terms=dict(terms))


def latency_features(annotation: Annotation, sizes: Sequence[Size]) -> list[Product]:
    """The products that a latency may grow with: those of the matrices, and a constant."""
    found: dict[Product, None] = {(): None}
    for slot, product, _ in _products(annotation, sizes):
        if slot.summed and product:
            found[product] = None
    return list(found)


def latency_cost(
    features: Sequence[Product], measured: Sequence[tuple[Mapping[str, int], float]]
) -> Cost:
    """Fit milliseconds to measured (sizes, milliseconds); no factor is negative.

    Raises:
        ValueError: when fewer than two sizes were measured.
    """
    if len(measured) < 2:
        raise ValueError(f"a latency model needs two measured sizes at least, got {len(measured)}")
    table = np.array(
        [[math.prod(sizes[name] for name in each) for each in features] for sizes, _ in measured],
        dtype=np.float64,
    )
    # Products differ by many powers of ten.
    scale = table.max(0)
    factors, _ = nnls(table / scale, np.array([ms for _, ms in measured]))
    terms = {each: float(f) for each, f in zip(features, factors / scale, strict=True) if f > 0}
    return Cost(unit="ms", terms=terms)


# What a number of units is of the sizes: their products with their factors, added up.
_Sum = list[tuple[Product, float]]


def _products(annotation: Annotation, sizes: Sequence[Size]) -> list[tuple[Slot, Product, float]]:
    """Every weight's number of entries: which sizes it is a product of, and the rest."""
    owners: dict[tuple[TowerName, str], tuple[Size, Member]] = {
        (m.tower, m.axis): (size, m) for size in sizes for m in size.members
    }
    found: list[tuple[Slot, Product, float]] = []
    places: dict[TowerName, None] = {m.tower: None for size in sizes for m in size.members}
    for tower in places:
        axes = annotation.towers[tower]
        for slot in axes.slots.values():
            entries: _Sum = [((), 1.0)]
            for axis in (name for dim in slot.dims for name in dim):
                owner = owners.get((tower, axis))
                entries = _times(
                    entries, _units(*owner) if owner else [((), float(axes.axes[axis].size))]
                )
            for (place, container), owner in owners.items():
                if place == tower and slot.role.startswith(f"{container}."):
                    entries = _times(entries, _presence(slot, container, *owner))
            found += [(slot, tuple(sorted(names)), factor) for names, factor in entries]
    return found


def _times(one: _Sum, other: _Sum) -> _Sum:
    return [((*a, *b), x * y) for a, x in one for b, y in other]


def _units(size: Size, member: Member) -> _Sum:
    rest: _Sum = [((), float(member.plus))] if member.plus else []
    return [((size.name,), float(member.each)), *rest]


def _presence(slot: Slot, container: str, size: Size, member: Member) -> _Sum:
    """One block's weights stand for an even share of all blocks that may go."""
    number = int(slot.role.removeprefix(f"{container}.").split(".")[0])
    if number < member.first:
        return [((), 1.0)]
    share = 1 / (size.total - member.first)
    rest: _Sum = [((), -member.first * share)] if member.first else []
    return [((size.name,), share), *rest]
