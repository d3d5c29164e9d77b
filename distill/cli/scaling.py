"""`distill fit-scaling`: what a longer run would bring, and which recipe brings more."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from rich.console import Console
from rich.table import Table

from distill.cli.outcome import Outcome
from distill.cli.parsing import parse
from distill.scaling_report import (
    Compared,
    Fitted,
    YKind,
    common_x,
    compare,
    fit_recipes,
    read_runs,
)

if TYPE_CHECKING:
    from distill.scaling_law import PowerLaw


@dataclass(frozen=True, kw_only=True)
class FitScalingArguments:
    """Fit error = floor + amount * x ** -exponent to runs of several sizes.

    A line of the CSV is a run. Of a score the error is what is missing to 100 % (or 1). Intervals
    are of 95 %, from runs drawn anew. Fewer than four different x, or an x more than ten times
    beyond the largest measured one, are refused: a law would say something there all the same.

    Attributes:
        results: CSV with a header.
        x: its column of compute, samples seen or steps; count the teachers' cost in it, too.
        y: its column of scores or losses.
        y_is: percent, fraction or loss.
        by: its column of recipes, which are compared at equal x.
        at: x at which to predict; the largest x that every recipe has reached when none is given.
        draws: of the bootstrap.
        seed: of the bootstrap.
    """

    results: Annotated[Path, tyro.conf.Positional]
    x: str
    y: str
    y_is: YKind = "percent"
    by: str | None = None
    at: tuple[float, ...] = ()
    draws: int = 300
    seed: int = 0


def run(arguments: Sequence[str], console: Console) -> Outcome:
    """Read, fit, predict, compare, print."""
    asked = parse(FitScalingArguments, "fit-scaling", arguments)
    runs = read_runs(asked.results, asked.x, asked.y, asked.by, asked.y_is)
    places = common_x(runs, asked.at)
    fitted = fit_recipes(runs, draws=asked.draws, seed=asked.seed)
    compared = [pair for x in places for pair in compare(fitted, x)]
    _print_laws(fitted, places, asked, console)
    if compared:
        _print_compared(compared, console)
    values: dict[str, Any] = {
        "laws": {name: _law_values(found, places) for name, found in fitted.items()},
        "compared": [{**asdict(pair), "verdict": pair.verdict} for pair in compared],
    }
    return Outcome(values=values)


def _law_values(found: Fitted, places: Sequence[float]) -> dict[str, Any]:
    law: PowerLaw = found.law
    return {
        "runs": found.runs,
        **asdict(law),
        "floor_interval": found.interval_of("floor"),
        "exponent_interval": found.interval_of("exponent"),
        "errors": {f"{x:g}": found.error_at(x) for x in places},
    }


def _print_laws(
    fitted: Mapping[str, Fitted],
    places: Sequence[float],
    asked: FitScalingArguments,
    console: Console,
) -> None:
    missing = asked.y if asked.y_is == "loss" else f"what is missing of {asked.y}"
    table = Table(title=f"{missing} = floor + amount * {asked.x} ** -exponent")
    table.add_column(asked.by or "")
    columns = ("runs", "floor", "exponent", *(f"at {x:g}" for x in places))
    for column in columns:
        table.add_column(column, justify="right")
    for name, found in fitted.items():
        table.add_row(
            name,
            str(found.runs),
            _with_interval(found.law.floor, *found.interval_of("floor")),
            _with_interval(found.law.exponent, *found.interval_of("exponent")),
            *(_with_interval(*found.error_at(x)) for x in places),
        )
    console.print(table)


def _with_interval(value: float, low: float, high: float) -> str:
    return f"{value:.4g} ({low:.4g} to {high:.4g})"


def _print_compared(compared: Sequence[Compared], console: Console) -> None:
    for pair in compared:
        needs = f"what {pair.second} needs for {pair.first}'s error is beyond what was measured"
        if pair.equal_x is not None:
            needs = f"{pair.second} needs {pair.equal_x:.2g} times as much for {pair.first}'s error"
        console.print(
            f"at {pair.x:g}: {pair.first} minus {pair.second} "
            f"{_with_interval(pair.difference, pair.low, pair.high)}: {pair.verdict}; {needs}",
            highlight=False,
        )
