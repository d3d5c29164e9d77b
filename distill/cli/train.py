"""`distill train RECIPE [--dotted.override VALUE ...]`: the recipe is the only other argument."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console

from distill.cli.outcome import Outcome
from distill.cli.parsing import parse

if TYPE_CHECKING:
    from distill.config import RunConfig
    from distill.training import TrainResult

_USAGE = """usage: distill train RECIPE [--data.store FOLDER] [--out FOLDER] [OVERRIDES] [--json]

The same command resumes. distill list recipes prints the recipes, distill show RECIPE the values
of one. Every field can be overridden by its dotted name; distill train RECIPE --help lists them.
Several processes: accelerate launch --config_file $(distill show accelerate ddp) \\
    -m distill train RECIPE ...
"""


def run(arguments: Sequence[str], console: Console) -> Outcome:
    """Resolve the recipe, train, print."""
    if not arguments or arguments[0].startswith("-"):
        if not {"-h", "--help"}.intersection(arguments):
            raise ValueError("which recipe? distill train RECIPE ...; distill list recipes")
        print(_USAGE)
        return Outcome()
    from distill.config import RunConfig
    from distill.recipes import find_recipe
    from distill.starting import train_from_config

    name, *overrides = arguments
    config = parse(RunConfig, f"train {name}", overrides, default=find_recipe(name))
    _check(config)
    result = train_from_config(config, show=not console.quiet)
    _print(config, result, console)
    return Outcome(values=result.as_json(), exit_code=3 if result.refused else 0)


def _check(config: "RunConfig") -> None:
    """Say early what a run cannot do without."""
    if not config.data.store:
        raise ValueError("which reinforced dataset? Add --data.store FOLDER (distill reinforce)")
    if not config.out:
        raise ValueError("where to? Add --out FOLDER; the same command resumes from there")
    trained = config.student.text_from or config.student.donor or "/" in config.student.name
    if config.lock.tower != "none" and not trained:
        raise ValueError(
            f"--lock.tower {config.lock.tower} needs a trained tower: add --student.text-from "
            "FOLDER, --student.donor TEACHER, or a student with weights"
        )


def _print(config: "RunConfig", result: "TrainResult", console: Console) -> None:
    console.print(f"{result.steps} steps in {result.seconds:.1f} s; student in {config.out}")
    for name, value in result.metrics.items():
        share = result.retention.get(name) if result.retention else None
        beside = "" if share is None else f"  retention {share:.3f}"
        console.print(f"  {name:40} {value:.4f}{beside}", highlight=False)
    if result.refused:
        console.print(f"  left out: {json.dumps(result.refused)}")
