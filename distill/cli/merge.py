"""`distill merge STUDENT STUDENT ... --validation SHARDS --out FOLDER`: WiSE-FT and soups."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console
from rich.table import Table

from distill.cli.outcome import Outcome
from distill.cli.parsing import parse


@dataclass(frozen=True, kw_only=True)
class Merge:
    """Average students of one architecture and keep the mean that is best on held-out data.

    Attributes:
        students: folders; for wise-ft two: before and after fine-tuning.
        validation: shards that no student was trained on and that nothing is reported on.
        out: the folder to write: the student and merge.json; the same command goes on there.
        method: wise-ft tries means of two, uniform is the mean of all, greedy that of those which
            make it better.
        alphas: shares of the second student that wise-ft tries.
        metric: what to compare, as `distill evaluate` names it.
        templates: a set by name (plain, photo, photo7, imagenet), or prompts with {} for the
            class name.
        statistics_on: shards of training pictures, for students with BatchNorm.
        limit: so many samples at most.
        report_on: test shards, on which the chosen student is measured once.
    """

    students: Annotated[tuple[str, ...], tyro.conf.Positional]
    out: str
    validation: str = ""
    method: Literal["wise-ft", "uniform", "greedy"] = "wise-ft"
    alphas: tuple[float, ...] = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
    metric: str | None = None
    templates: tuple[str, ...] = ("plain",)
    statistics_on: str | None = None
    limit: int | None = None
    report_on: str | None = None


def run(arguments: Sequence[str], console: Console) -> Outcome:
    """Merge; print each mean as it is measured, and what was chosen."""
    asked = parse(Merge, "merge", arguments)
    from distill.merging import merge

    shown = (asked.metric, "top1", "image_to_text_r1", "text_to_image_r1")

    def show(row: dict[str, Any]) -> None:
        scores = row["metrics"].items()
        best = "  ".join(f"{name} {value:.4f}" for name, value in scores if name in shown)
        console.print(f"  {_shares(row['weights'])}  {best}", highlight=False)

    values = {name: getattr(asked, name) for name in Merge.__dataclass_fields__}
    result = merge(**values, on_tried=show)
    table = Table("student", "share")
    for folder, weight in zip(asked.students, result.weights, strict=True):
        table.add_row(folder, f"{weight:.3f}")
    console.print(table)
    best = next(row for row in result.tried if row["weights"] == result.weights)
    console.print(
        f"{result.metric} {best['metrics'][result.metric]:.4f} on the validation data; student in "
        f"{asked.out}",
        highlight=False,
    )
    for name, value in result.report.items():
        console.print(f"  {asked.report_on}: {name} {value:.4f}", highlight=False)
    return Outcome(values=result.as_json())


def _shares(weights: Sequence[float]) -> str:
    return " + ".join(f"{weight:.2f}" for weight in weights)
