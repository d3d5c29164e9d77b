"""What the doctor finds, and how it is printed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

Status = Literal["ok", "warn", "fail"]

GIB = 2**30
_STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red"}


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing looked at; `hint` says what to do and is empty when nothing is to be done."""

    name: str
    status: Status
    detail: str
    hint: str = ""


def print_findings(findings: Sequence[Finding], console: Console) -> None:
    """Print a table and, below it, what to do."""
    table = Table(box=SIMPLE_HEAD, show_header=False, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in findings:
        detail = Text(finding.detail)
        if finding.hint:
            detail.append(f"\n-> {finding.hint}", style="italic")
        status = Text(finding.status, style=_STYLES[finding.status])
        table.add_row(status, Text(finding.name), detail)
    console.print(table)
    counts = {status: sum(f.status == status for f in findings) for status in ("warn", "fail")}
    verdict = "All is well." if not any(counts.values()) else ", ".join(
        f"{number} {status}" for status, number in counts.items() if number)  # fmt: skip
    console.print(verdict)


def room(name: str, free: int, total: int, hint: str, *, least: int = 2 * GIB) -> Finding:
    """Whether enough bytes are free."""
    detail = f"{free / GIB:.1f} of {total / GIB:.1f} GiB free"
    if free >= least:
        return Finding(name=name, status="ok", detail=detail)
    return Finding(name=name, status="warn", detail=detail, hint=hint)
