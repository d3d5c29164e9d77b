"""`distill report`: one page of any runs."""

import json
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
    numbers = asked.out.with_suffix(".json")
    _refuse_to_overwrite(asked, numbers)
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
    write_report_json(numbers, data)
    print_rows(data.rows, console, reference=data.reference)
    for what, why in data.missing:
        console.print(f"[dim]not on the page: {escape(what)}: {escape(why)}[/]", highlight=False)
    console.print(f"{page}, {numbers}", highlight=False)
    return Outcome(values={"page": str(page), "json": str(numbers), "missing": dict(data.missing)})


def _refuse_to_overwrite(asked: Report, numbers: Path) -> None:
    """Raise a ValueError where the page or its JSON would replace the other, or what is read."""
    from distill.report import find_ladders

    if asked.out == numbers:
        raise ValueError(
            f"--out {asked.out} is the page, and its numbers go to {numbers} too: name the page "
            f"{asked.out.with_suffix('.html')}"
        )
    tables = [table for given in asked.ladders for table in find_ladders(given)]
    files = {path.resolve() for path in (*asked.profiles, *asked.evaluations, *tables)}
    folders = {path.resolve() for path in (*asked.runs, *asked.teachers, *asked.exports)}
    for path in (asked.out, numbers):
        place = path.resolve()
        inside = place.is_file() and not folders.isdisjoint(place.parents)
        if place in files or (inside and not _is_report(place)):
            raise ValueError(
                f"--out {asked.out} would replace {path}, which this report reads, by its "
                f"{'page' if path == asked.out else 'numbers'}: give another name or folder"
            )


def _is_report(path: Path) -> bool:
    """Whether an earlier report wrote this file; nothing else that a run's folder holds."""
    if path.suffix != ".json":
        return path.suffix in (".html", ".htm")
    try:
        return {"headline", "rows", "lineage"} <= json.loads(path.read_text()).keys()
    except (ValueError, AttributeError):
        return False
