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
    MAX_REACH,
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
        largest: the largest x among them.
        law: the fit.
        draws: fits to runs drawn anew.
    """

    runs: int
    largest: float
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
            needs three times as much; None where that is more than `MAX_REACH` times the largest
            measured one, or nowhere.
    """

    first: str
    second: str
    x: float
    difference: float
    low: float
    high: float
    equal_x: float | None

    @property
    def verdict(self) -> str:
        """Who is better, where the interval leaves no doubt."""
        if self.low <= 0 <= self.high:
            return "no difference beyond noise"
        return f"{self.first if self.high < 0 else self.second} is better"


def read_runs(path: Path, x: str, y: str, by: str | None, kind: YKind) -> dict[str, Runs]:
    """Read x and error of every run, by recipe; of a score the error is what is missing of it.

    Raises:
        ValueError: a column is not there, a cell holds no number, a score is out of range, or a
            run has no recipe.
        FileNotFoundError: there is no such file.
    """
    with path.open(newline="", encoding="utf-8-sig") as file:  # Excel writes a mark before it
        reader = csv.DictReader(file)
        # The reader's own count: it passes over blank lines, and a quoted cell may have several.
        rows = [(reader.line_num, row) for row in reader]
    if not rows:
        raise ValueError(f"{path} holds no runs: it needs a header and a line a run")
    columns = reader.fieldnames or ()
    for name in filter(None, (x, y, by)):
        if name not in columns:
            raise ValueError(f"{path} has no column {name!r}; it has: {', '.join(columns)}")
    found: dict[str, list[tuple[float, float]]] = {}
    for line, row in rows:
        values = (_number(row[x], path, line, x), _number(row[y], path, line, y))
        if kind in _BEST:
            values = (values[0], _missing(values[1], _BEST[kind], path, line, y))
        found.setdefault(_recipe(row[by], path, line, by) if by else "all runs", []).append(values)
    return {
        name: (np.array([p[0] for p in pairs]), np.array([p[1] for p in pairs]))
        for name, pairs in found.items()
    }


def _number(cell: str | None, path: Path, line: int, column: str) -> float:
    try:
        return float(cell or "")
    except ValueError:
        raise ValueError(f"{path}, line {line}: {column} is no number: {cell!r}") from None


def _recipe(cell: str | None, path: Path, line: int, column: str) -> str:
    if not (cell or "").strip():
        raise ValueError(
            f"{path}, line {line}: {column} is empty, so this run belongs to no recipe; "
            "fill it in, or leave the line out"
        )
    return str(cell)


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
    found = {}
    for number, (name, (x, error)) in enumerate(sorted(runs.items())):
        law = fit_power_law(x, error, of=name)
        laws = bootstrap(law, x, error, draws=draws, seed=seed + number)
        found[name] = Fitted(runs=len(x), largest=float(x.max()), law=law, draws=laws)
    return found


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
        needed = other.law.needed(error, within=MAX_REACH * other.largest)
        found.append(
            Compared(
                first=first,
                second=second,
                x=x,
                difference=error - other.law.error(x),
                low=low,
                high=high,
                equal_x=None if needed is None else needed / x,
            )
        )
    return found
