"""`distill report`: one page of any runs."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console
from rich.markup import escape

from distill.cli.outcome import Outcome
from distill.cli.parsing import parse


@dataclass(frozen=True, kw_only=True)
class Report:
    """Write one HTML page of finished trainings, and the same numbers as JSON beside it.

    Scores, costs, learning curves, ladders, what the best student finds for texts and pictures,
    which classes it confuses, the health of its data, and where it comes from, from the shards to
    the exported files. What is not there is said. The page needs no network and no script.

    Attributes:
        runs: folders that distill train wrote, of students.
        teachers: folders that distill train wrote, shown as teachers; kept shares are of the first.
        ladders: tables of benchmarks/ladder.py (ladder-NAME.csv), or folders of such.
        exports: folders that distill export wrote: files with their hashes, sizes, times and, where
            it was given --metric-on, scores.
        profiles: files that distill profile RUN --files FOLDER --out FILE wrote.
        evaluations: files that distill evaluate --out wrote: more of a run or teacher whose folder
            they name, otherwise a teacher's row of its own; the first is the reference where
            teachers are not given.
        health: whether the best student's store is read for the data-health sections; auto: where
            it holds at most 20 GB.
        out: the page.
        title: of the page.
        pictures_of: the split whose pictures are searched; by default the last one.
    """

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    teachers: tuple[Path, ...] = ()
    ladders: tuple[Path, ...] = ()
    exports: tuple[Path, ...] = ()
    profiles: tuple[Path, ...] = ()
    evaluations: tuple[Path, ...] = ()
    health: Literal["auto", "always", "never"] = "auto"
    out: Path = Path("report.html")
    title: str = ""
    pictures_of: str | None = None


def run(arguments: Sequence[str], console: Console) -> Outcome:
    """Collect, write, say where."""
    asked = parse(Report, "report", arguments)
    from distill.report import print_rows, write_report, write_report_json
    from distill.run_report import Beside, report_of_runs

    if not asked.runs:
        raise ValueError("a report needs the folder of a finished run, or several")
    beside = Beside(
        ladders=asked.ladders,
        exports=asked.exports,
        profiles=asked.profiles,
        evaluations=asked.evaluations,
        health=asked.health,
    )
    with console.status("Reading the runs") as status:
        data = report_of_runs(
            asked.runs,
            teachers=asked.teachers,
            title=asked.title,
            pictures_of=asked.pictures_of,
            beside=beside,
            command=shlex.join(["distill", "report", *arguments]),
            step=status.update,
        )
    page = write_report(asked.out, data)
    numbers = write_report_json(asked.out.with_suffix(".json"), data)
    print_rows(data.rows, console, reference=data.reference)
    for what, why in data.missing:
        console.print(f"[dim]not on the page: {escape(what)}: {escape(why)}[/]", highlight=False)
    console.print(f"{page}, {numbers}", highlight=False)
    return Outcome(values={"page": str(page), "json": str(numbers), "missing": dict(data.missing)})
