"""The ladder's table as a report shows it: `ladder-NAME.csv`, written by benchmarks/ladder.py.

A line of it is one row (one change of recipe) on one metric: the mean over paired seeds, its
standard error, the mean paired difference from other rows with a verdict, and the raw scores.
"""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Group = Literal["teachers", "equal steps", "equal compute", "other steps"]
GROUPS: tuple[Group, ...] = ("teachers", "equal steps", "equal compute", "other steps")
_NEEDED = ("row", "metric", "mean", "standard_error", "seeds", "steps")
_MINUS = "minus_"
# How the ladder names a row that has the work of its base, not the steps.
_SAME_WORK = "-same-work"


@dataclass(frozen=True, kw_only=True)
class LadderScore:
    """A row on one metric, in percent.

    Attributes:
        mean: over seeds.
        error: standard error of that; None of a single seed.
        minus: comparison -> (paired difference, verdict).
    """

    mean: float
    error: float | None
    minus: Mapping[str, tuple[float, str]]


@dataclass(frozen=True, kw_only=True)
class LadderRow:
    """One row of the table; `seeds` and `steps` as the file has them.

    `against`: comparison -> the row that this one is compared with, where each has its own.
    """

    name: str
    group: Group
    seeds: int
    steps: int
    scores: Mapping[str, LadderScore]
    against: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Ladder:
    """One table.

    Attributes:
        name: of the data set.
        metrics: `split/metric`, in the file's order.
        bases: the comparisons: rows that every row is compared with, by their names, and columns
            that name a row of its own for each.
        origin: commit and device that made it, as the file says.
    """

    name: str
    rows: Sequence[LadderRow]
    metrics: Sequence[str]
    bases: Sequence[str]
    origin: str

    def of(self, group: Group) -> list[LadderRow]:
        """The rows of a group."""
        return [row for row in self.rows if row.group == group]


def find_ladders(path: str | Path) -> list[Path]:
    """Return the tables that a path means: a CSV, a folder of tables, or one table's rows.

    Raises:
        ValueError: there is none.
    """
    path = Path(path)
    if path.is_file():
        return [path]
    inside = sorted(path.glob("ladder-*.csv"))
    # Not with_name: "." has no name.
    beside = path.parent / f"{path.name}.csv"
    found = inside or ([beside] if path.is_dir() and beside.is_file() else [])
    if not found:
        raise ValueError(
            f"{path} is no ladder: name a table that benchmarks/ladder.py wrote "
            "(ladder-NAME.csv), or the folder it is in"
        )
    return found


def read_ladder(path: Path) -> Ladder:
    """Read a table.

    Raises:
        ValueError: it lacks columns, or holds something that is no number where one belongs.
    """
    lines = path.read_text(encoding="utf-8").splitlines()
    origin = " ".join(line.lstrip("# ") for line in lines if line.startswith("#"))
    reader = csv.DictReader(line for line in lines if not line.startswith("#"))
    heads = reader.fieldnames or ()
    lacks = [name for name in _NEEDED if name not in heads]
    if lacks:
        raise ValueError(f"{path} is no ladder's table: it lacks the columns {', '.join(lacks)}")
    named: dict[str, list[dict[str, str]]] = {}
    for line in reader:
        named.setdefault(line["row"], []).append(line)
    bases = [head.removeprefix(_MINUS) for head in heads if head.startswith(_MINUS)]
    try:
        steps = _equal_steps(named, bases)
        rows = [_row(name, own, bases, steps) for name, own in named.items()]
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is no ladder's table: {error}") from error
    metrics = list(dict.fromkeys(line["metric"] for own in named.values() for line in own))
    name = path.stem.removeprefix("ladder-")
    return Ladder(name=name, rows=rows, metrics=metrics, bases=bases, origin=origin)


def _equal_steps(
    named: Mapping[str, Sequence[Mapping[str, str]]], bases: Sequence[str]
) -> int | None:
    """The steps of the first row that all are compared with; None where the table has none."""
    base = next((named[name] for name in bases if name in named), None)
    return int(base[0]["steps"]) if base else None


def _row(
    name: str, lines: Sequence[Mapping[str, str]], bases: Sequence[str], equal_steps: int | None
) -> LadderRow:
    # A teacher is compared with nothing, and has been trained once.
    compared = any(line.get(key) for line in lines for key in line if key.startswith("verdict"))
    alone = not compared and not lines[0]["standard_error"]
    steps = int(lines[0]["steps"])
    group: Group = "equal steps" if steps == (equal_steps or steps) else "other steps"
    if name.endswith(_SAME_WORK):
        group = "equal compute"
    return LadderRow(
        name=name,
        group="teachers" if alone else group,
        seeds=int(lines[0]["seeds"]),
        steps=steps,
        scores={line["metric"]: _score(line, bases) for line in lines},
        against={base: lines[0][base] for base in bases if lines[0].get(base)},
    )


def _score(line: Mapping[str, str], bases: Sequence[str]) -> LadderScore:
    error = float(line["standard_error"] or "nan")
    minus = {}
    for number, base in enumerate(bases):
        named = f"verdict_{base}"
        verdict = line.get(named if named in line or number else "verdict") or ""
        if line[_MINUS + base]:
            minus[base] = (float(line[_MINUS + base]), verdict)
    # nan is the error of a single seed.
    return LadderScore(
        mean=float(line["mean"]), error=error if error == error else None, minus=minus
    )
