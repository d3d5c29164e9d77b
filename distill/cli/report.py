"""`distill report`: one page of any runs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from distill.cli.outcome import Outcome
from distill.cli.parsing import parse


@dataclass(frozen=True, kw_only=True)
class Report:
    """Write one HTML page of finished trainings, and the same numbers as JSON beside it.

    Scores, sizes, learning curves, what the best student finds for texts and pictures, which
    classes it confuses, and where it comes from. The page needs no network and no script.

    Attributes:
        runs: folders that distill train wrote, of students.
        teachers: folders that distill train wrote, shown as teachers; kept shares are of the first.
        out: the page.
        title: of the page.
        pictures_of: the split whose pictures are searched; by default the last one.
    """

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    teachers: tuple[Path, ...] = ()
    out: Path = Path("report.html")
    title: str = ""
    pictures_of: str | None = None


def run(arguments: Sequence[str], console: Console) -> Outcome:
    """Collect, write, say where."""
    asked = parse(Report, "report", arguments)
    from distill.report import print_rows, write_report, write_report_json
    from distill.run_report import report_of_runs

    if not asked.runs:
        raise ValueError("a report needs the folder of a finished run, or several")
    data = report_of_runs(
        asked.runs, teachers=asked.teachers, title=asked.title, pictures_of=asked.pictures_of
    )
    page = write_report(asked.out, data)
    numbers = write_report_json(asked.out.with_suffix(".json"), data)
    print_rows(data.rows, console)
    console.print(f"{page}, {numbers}", highlight=False)
    return Outcome(values={"page": str(page), "json": str(numbers)})
