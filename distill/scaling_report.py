"""Runs in a table as scaling laws: one a recipe, with intervals, and recipes at equal x.

Left out: drawing. The values are in `--json` for one's own plot.
"""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from distill.scaling_law import (
    PowerLaw,
    bootstrap,
    check_points,
    check_reach,
    fit_power_law,
    interval,
)

YKind = Literal["percent", "fraction", "loss"]
Runs = tuple[np.ndarray, np.ndarray]
_BEST = {"percent": 100.0, "fraction": 1.0}


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """One recipe's law and what the drawn ones say of it.

    Attributes:
        runs: how many were fitted.
        law: the fit.
        draws: fits to runs drawn anew.
    """

    runs: int
    law: PowerLaw
    draws: list[PowerLaw]

    def interval_of(self, name: Literal["floor", "exponent"]) -> tuple[float, float]:
        """Return 95 % of a parameter."""
        return interval([getattr(law, name) for law in self.draws])

    def error_at(self, x: float) -> tuple[float, float, float]:
        """Return the error at `x` and its 95 %."""
        return self.law.error(x), *interval([law.error(x) for law in self.draws])


@dataclass(frozen=True, kw_only=True)
class Compared:
    """Two recipes at one x.

    Attributes:
        first: name; second: name.
        x: where.
        difference: first's error minus second's: below 0, the first is better.
        low: of 95 %.
        high: of 95 %.
        equal_x: the x at which the second has the first's error, over `x`: 3 means that the second
            needs three times as much; infinite where it never gets there.
    """

    first: str
    second: str
    x: float
    difference: float
    low: float
    high: float
    equal_x: float

    @property
    def verdict(self) -> str:
        """Who is better, where the interval leaves no doubt."""
        if self.low <= 0 <= self.high:
            return "no difference beyond noise"
        return f"{self.first if self.high < 0 else self.second} is better"


def read_runs(path: Path, x: str, y: str, by: str | None, kind: YKind) -> dict[str, Runs]:
    """Read x and error of every run, by recipe; of a score the error is what is missing of it.

    Raises:
        ValueError: a column is not there, a cell holds no number, or a score is out of range.
        FileNotFoundError: there is no such file.
    """
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows:
        raise ValueError(f"{path} holds no runs: it needs a header and a line a run")
    for name in filter(None, (x, y, by)):
        if name not in rows[0]:
            raise ValueError(f"{path} has no column {name!r}; it has: {', '.join(rows[0])}")
    found: dict[str, list[tuple[float, float]]] = {}
    for line, row in enumerate(rows, start=2):
        values = (_number(row[x], path, line, x), _number(row[y], path, line, y))
        if kind in _BEST:
            values = (values[0], _missing(values[1], _BEST[kind], path, line, y))
        found.setdefault(row[by] if by else "all runs", []).append(values)
    return {
        name: (np.array([p[0] for p in pairs]), np.array([p[1] for p in pairs]))
        for name, pairs in found.items()
    }


def _number(cell: str | None, path: Path, line: int, column: str) -> float:
    try:
        return float(cell or "")
    except ValueError:
        raise ValueError(f"{path}, line {line}: {column} is no number: {cell!r}") from None


def _missing(score: float, best: float, path: Path, line: int, column: str) -> float:
    if not 0 <= score < best:
        raise ValueError(
            f"{path}, line {line}: {column} must be at least 0 and below {best:g}, got {score:g}; "
            "say with --y-is what it is: percent, fraction or loss"
        )
    return best - score


def fit_recipes(runs: Mapping[str, Runs], *, draws: int, seed: int) -> dict[str, Fitted]:
    """Fit every recipe's law; all points are looked at before the first is fitted.

    Raises:
        ValueError: see `scaling_law.check_points`.
    """
    for name, (x, error) in runs.items():
        check_points(x, error, name)
    return {
        name: Fitted(
            runs=len(x),
            law=fit_power_law(x, error, of=name),
            draws=bootstrap(x, error, draws=draws, seed=seed + number, of=name),
        )
        for number, (name, (x, error)) in enumerate(sorted(runs.items()))
    }


def common_x(runs: Mapping[str, Runs], asked: Sequence[float]) -> tuple[float, ...]:
    """Return the x to predict at: those asked for, else the largest that every recipe has reached.

    Raises:
        ValueError: see `scaling_law.check_reach`.
    """
    for at in asked:
        for name, (x, _) in runs.items():
            check_reach(at, x, name)
    return tuple(asked) or (min(float(x.max()) for x, _ in runs.values()),)


def compare(fitted: Mapping[str, Fitted], x: float) -> list[Compared]:
    """Compare every two recipes at one x; their draws are independent of each other."""
    names = sorted(fitted)
    pairs = [(a, b) for number, a in enumerate(names) for b in names[number + 1 :]]
    found = []
    for first, second in pairs:
        one, other = fitted[first], fitted[second]
        drawn = zip(one.draws, other.draws, strict=True)
        low, high = interval([a.error(x) - b.error(x) for a, b in drawn])
        error = one.law.error(x)
        found.append(
            Compared(
                first=first,
                second=second,
                x=x,
                difference=error - other.law.error(x),
                low=low,
                high=high,
                equal_x=other.law.needed(error) / x,
            )
        )
    return found
