"""The plan: what every weight of the student starts from, decided before anything is changed.

Plain frozen values. A plan goes through JSON unchanged, prints as a table, and says itself which
student and which donor it was made for.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

from students.student import TowerName

FORMAT = 1
Method = Literal["copy", "resize_patches", "recentre", "resize_positions", "cut_positions", "zero"]
Outcome = Literal["copied", "selected", "resampled", "grown", "silenced", "own"]
OUTCOMES: tuple[Outcome, ...] = ("copied", "selected", "resampled", "grown", "silenced", "own")


@dataclass(frozen=True, kw_only=True)
class AxisMap:
    """Where a student's axis comes from.

    Attributes:
        name, donor: the axis in the student and in the donor.
        kind: as in `annotation.Axis`.
        donor_size: units that the donor has.
        indices: the donor's unit for each of the student's; one may serve several (growing), -1
            is none (a token the donor does not know).
        selector: how they were chosen.
    """

    name: str
    donor: str
    kind: str
    donor_size: int
    indices: tuple[int, ...]
    selector: str

    @property
    def identity(self) -> bool:
        """Whether every unit stays where it is."""
        return self.indices == tuple(range(self.donor_size))


@dataclass(frozen=True, kw_only=True)
class View:
    """A stored tensor as its role's matrix; see `annotation.Slot`."""

    key: str
    shape: tuple[int, ...]
    part: tuple[int, int] | None = None
    transposed: bool = False


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """One weight's inheritance.

    Attributes:
        role: its name within the tower.
        student, donor: where it is stored; no donor for method "zero".
        axes: names of `AxisMap`s along each dimension; () where `method` does the work.
        summed: dimensions on the input side: copies of a unit share its weight.
        spread: axes whose copies each get a part of its length, so that dot products stay.
        factor: multiplies the result.
    """

    role: str
    student: View
    donor: View | None
    axes: tuple[tuple[str, ...], ...] = ()
    summed: tuple[int, ...] = ()
    spread: tuple[str, ...] = ()
    method: Method = "copy"
    factor: float = 1.0
    outcome: Outcome = "copied"

    @property
    def of_one_axis(self) -> bool:
        """Whether it is a vector of one axis's units, as a LayerNorm's weight is."""
        return [len(dim) for dim in self.axes] == [1]


@dataclass(frozen=True, kw_only=True)
class TowerPlan:
    """One tower's inheritance.

    Attributes:
        depth: container of blocks -> the donor's block for each of the student's (None: none).
        own: state-dict key, with the part of it where it is fused, -> why it keeps its own start.
        own_sizes: how many numbers each of these has.
    """

    selector: str
    depth_rule: str
    axes: dict[str, AxisMap]
    depth: dict[str, tuple[int | None, ...]]
    transfers: tuple[Transfer, ...]
    own: dict[str, str]
    own_sizes: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class InheritancePlan:
    """What `plan_inheritance` decided; `apply_plan` carries it out.

    Attributes:
        student, donor: their names.
        student_fingerprint: of names and shapes; `donor_fingerprint` of the weights too.
        towers: image, text; only those that were asked for.
        scalars: `logit_scale` and `logit_bias`, between models of one kind (softmax or sigmoid).
    """

    student: str
    donor: str
    student_fingerprint: str
    donor_fingerprint: str
    towers: dict[TowerName, TowerPlan]
    scalars: tuple[str, ...]

    @cached_property
    def coverage(self) -> dict[TowerName, dict[Outcome, int]]:
        """How many numbers of each tower have which outcome (statistics included)."""
        counts: dict[TowerName, dict[Outcome, int]] = {}
        for name, tower in self.towers.items():
            found: Counter[Outcome] = Counter()
            for transfer in tower.transfers:
                size = prod(transfer.student.shape)
                # Rows of tokens that the donor does not know.
                maps = [tower.axes[name].indices for dim in transfer.axes for name in dim]
                unknown = [size * each.count(-1) // len(each) for each in maps if -1 in each]
                found["own"] += sum(unknown)
                found[transfer.outcome] += size - sum(unknown)
            found["own"] += sum(tower.own_sizes.values())
            counts[name] = {outcome: found[outcome] for outcome in OUTCOMES if found[outcome]}
        return counts

    @property
    def inherited(self) -> float:
        """The share of the planned towers' numbers that start from the donor's."""
        counts = Counter[Outcome]()
        for tower in self.coverage.values():
            counts.update(tower)
        own = counts["own"] + counts["silenced"]
        return 1 - own / max(counts.total(), 1)

    def __str__(self) -> str:
        """The coverage table as text."""
        console = Console(width=100, no_color=True)
        with console.capture() as capture:
            console.print(coverage_table(self))
        return capture.get()

    def save(self, path: str | Path) -> None:
        """Write the plan as JSON."""
        Path(path).write_text(json.dumps(self.as_json()), encoding="utf-8")

    def as_json(self) -> dict[str, Any]:
        """Return JSON values; `InheritancePlan.from_json` reads them back."""
        values = {"format": FORMAT, **asdict(self)}
        for tower in values["towers"].values():
            for axis in tower["axes"].values():
                axis["indices"] = _runs(axis["indices"])
        return json.loads(json.dumps(values))

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "InheritancePlan":
        """Rebuild from `as_json()`.

        Raises:
            ValueError: for another format.
        """
        if values.get("format") != FORMAT:
            raise ValueError(
                f"this inheritance plan has format {values.get('format')!r}, this version reads "
                f"format {FORMAT}: plan anew"
            )
        rest = {k: v for k, v in values.items() if k not in ("format", "towers", "scalars")}
        towers = {name: _tower(tower) for name, tower in values["towers"].items()}
        return cls(towers=towers, scalars=tuple(values["scalars"]), **rest)


def coverage_table(plan: InheritancePlan) -> Table:
    """What every tower starts from, how its axes and blocks were chosen, what stays out and why."""
    table = Table("tower", "what", "how", "numbers", title=f"{plan.student} from {plan.donor}")
    for name, tower in plan.towers.items():
        counts = plan.coverage[name]
        total = sum(counts.values())
        for outcome, count in counts.items():
            table.add_row(name, outcome, _MEANING[outcome], f"{count:,} ({count / total:.1%})")
        if counts.keys() <= {"own"}:
            reason = next(iter(tower.own.values()), "")
            table.add_row(name, "own", f"nothing in common: {reason}", "")
            continue
        _add_choices(table, name, tower)
        _add_reasons(table, name, tower, counts.get("own", 0))
    return table


_MEANING: dict[Outcome, str] = {
    "copied": "as the donor has them",
    "selected": "of the donor's units and blocks",
    "resampled": "grids brought to size",
    "grown": "units repeated",
    "silenced": "zero: extra blocks add nothing yet",
    "own": "the student's own start",
}


def _add_choices(table: Table, name: str, tower: TowerPlan) -> None:
    sizes = Counter(
        (axis.kind, axis.donor_size, len(axis.indices), axis.selector)
        for axis in tower.axes.values()
        if not axis.identity
    )
    for (kind, old, new, selector), times in sizes.items():
        text = (f"{times} x " if times > 1 else "") + kind.replace("_", " ")
        how = "repeated" if selector == "all" else selector
        table.add_row(name, f"{text} {old} -> {new}", how, "")
    gains = [each.factor for each in tower.transfers if each.factor != 1 and each.of_one_axis]
    if gains:
        text = f"{len(gains)} x LayerNorm gain" if len(gains) > 1 else "LayerNorm gain"
        span = f"times {min(gains):.2f} to {max(gains):.2f}"
        table.add_row(name, text, "for the units it no longer counts", span)
    for container, blocks in tower.depth.items():
        if blocks != tuple(range(len(blocks))):
            chosen = " ".join("-" if block is None else str(block) for block in blocks)
            table.add_row(name, container, tower.depth_rule, f"blocks {chosen}")


def _add_reasons(table: Table, name: str, tower: TowerPlan, own: int) -> None:
    reasons: Counter[str] = Counter()
    for key, reason in tower.own.items():
        reasons[reason] += tower.own_sizes[key]
    unknown = own - reasons.total()
    if unknown:
        reasons["tokens that the donor does not know"] = unknown
    for reason, count in reasons.most_common(8):
        table.add_row(name, "own", reason, f"{count:,}")
    if len(reasons) > 8:
        table.add_row(name, "own", f"{len(reasons) - 8} more reasons: see the plan", "")


def load_plan(path: str | Path) -> InheritancePlan:
    """Read what `InheritancePlan.save` wrote."""
    return InheritancePlan.from_json(json.loads(Path(path).read_text(encoding="utf-8")))


def _tower(values: dict[str, Any]) -> TowerPlan:
    axes = {
        name: AxisMap(**{**axis, "indices": _unrun(axis["indices"])})
        for name, axis in values["axes"].items()
    }
    depth = {name: tuple(blocks) for name, blocks in values["depth"].items()}
    transfers = tuple(_transfer(each) for each in values["transfers"])
    return TowerPlan(**{**values, "axes": axes, "depth": depth, "transfers": transfers})


def _transfer(values: dict[str, Any]) -> Transfer:
    tuples = {name: tuple(values[name]) for name in ("summed", "spread")}
    return Transfer(
        **{
            **values,
            **tuples,
            "axes": tuple(tuple(dim) for dim in values["axes"]),
            "student": _view(values["student"]),
            "donor": _view(values["donor"]) if values["donor"] else None,
        }
    )


def _view(values: dict[str, Any]) -> View:
    part = tuple(values["part"]) if values["part"] else None
    return View(**{**values, "shape": tuple(values["shape"]), "part": part})


def _runs(indices: Sequence[int]) -> list[list[int]]:
    """[first, length] of every run of consecutive numbers: a table of words is one line."""
    runs: list[list[int]] = []
    for index in indices:
        if runs and index == runs[-1][0] + runs[-1][1] and index > 0:
            runs[-1][1] += 1
        else:
            runs.append([index, 1])
    return runs


def _unrun(runs: Sequence[Sequence[int]]) -> tuple[int, ...]:
    return tuple(first + at for first, length in runs for at in range(length))
