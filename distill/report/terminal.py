"""The table of models for a terminal."""

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from distill.report.data import ReportData, Row
from distill.report.summary import kept, summarise
from distill.report.wording import NOTHING, known, metric_name, percent, printable, split_name

_STYLES = {"teacher": "dim", "distilled": "bold green", "control": "yellow", "undistilled": ""}


def print_rows(rows: Sequence[Row], console: Console, *, reference: str = "") -> None:
    """Print teachers and students; scores and retention in percent, the best student marked.

    `reference` names the teacher that retention is relative to, as in `ReportData`.
    """
    summary = summarise(ReportData(title="", rows=rows, reference=reference))
    caption = "* best student. In %; in brackets the share kept of the teacher's score."
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, caption=caption)
    table.add_column("model", overflow="fold")
    table.add_column("kind", no_wrap=True)
    for head in ("image\nparams", "steps", *(_head(key) for key in summary.keys)):
        table.add_column(head, justify="right", no_wrap=True)
    for row in rows:
        # Text, not str: a name is no markup.
        best = " *" if row is summary.best else ""
        cells = [Text(printable(row.name) + best), Text(row.kind)]
        cells += [Text(known(row.image_params)), Text(str(row.steps or NOTHING))]
        for key in summary.keys:
            share = kept(row, summary.reference, key)
            of_teacher = "" if share is None else f" ({percent(share, digits=0)})"
            cells.append(Text(percent(row.metrics.get(key)) + of_teacher))
        table.add_row(*cells, style=_STYLES[row.kind])
    console.print(table)


def _head(key: str) -> str:
    return "\n".join([*split_name(key).split(), metric_name(key)])
