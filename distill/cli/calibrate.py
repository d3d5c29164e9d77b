"""`distill calibrate RECIPE`: which scale each stored teacher teaches best at."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from distill.cli.outcome import Outcome
from distill.cli.parsing import parse

if TYPE_CHECKING:
    from distill.calibrating import Calibrated

_USAGE = """usage: distill calibrate RECIPE --data.store FOLDER --evaluate-on SPLIT SHARDS
           --out FOLDER [--scales 1 0.7 0.5 0.3 0.15] [--steps 400] [OVERRIDES] [--json]

Trains the recipe's student once a teacher and scale, each teacher alone, and prints the scores and
the objective.teacher_scales to train with. The same command goes on where it stopped. Every field
of the recipe can be overridden as for distill train.
"""


def run(arguments: Sequence[str], console: Console) -> Outcome:
    """Resolve the recipe, sweep, print."""
    if not arguments or arguments[0].startswith("-"):
        if not {"-h", "--help"}.intersection(arguments):
            raise ValueError("which recipe? distill calibrate RECIPE ...; distill list recipes")
        print(_USAGE)
        return Outcome()
    from distill.calibrating import calibrate
    from distill.cli.calibrate_arguments import CalibrateArguments
    from distill.recipes import find_recipe

    name, *overrides = arguments
    default = CalibrateArguments(run=find_recipe(name))
    asked = parse(CalibrateArguments, f"calibrate {name}", overrides, default=default)
    if not asked.run.data.store or not asked.run.out:
        raise ValueError("which store, and where to? Add --data.store FOLDER and --out FOLDER")
    found = calibrate(
        asked.run,
        scales=asked.scales,
        num_steps=asked.steps,
        metric=asked.metric,
        processes=asked.processes,
        console=console,
    )
    _print(found, console)
    values = [one.as_json() for one in found]
    return Outcome(values={"teachers": values, "teacher_scales": [one.best for one in found]})


def _print(found: "Sequence[Calibrated]", console: Console) -> None:
    table = Table("teacher", "own scale", *(f"x {factor:g}" for factor in found[0].scores), "best")
    for one in found:
        scores = (f"{score:.4f}" for score in one.scores.values())
        best = f"x {one.best:g} = {one.kd_scale:.1f}"
        table.add_row(one.teacher, f"{one.own_scale:.1f}", *scores, best)
    console.print(table)
    scales = " ".join(f"{one.best:g}" for one in found)
    teachers = " ".join(one.teacher for one in found)
    console.print(
        f"train with --data.teachers {teachers} --objective.teacher-scales {scales}",
        highlight=False,
    )
