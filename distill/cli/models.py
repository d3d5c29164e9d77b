"""`distill export`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro
from rich.console import Console
from rich.table import Table

from distill.cli.outcome import Outcome
from distill.cli.parsing import parse


@dataclass(frozen=True, kw_only=True)
class Export:
    """Write a student as files that run elsewhere, and check them against it.

    Attributes:
        student: the student's folder.
        out: the folder to write.
        formats: what to write.
        samples: shards with real pictures and captions to check on; noise when left out.
    """

    student: Annotated[str, tyro.conf.Positional]
    out: Annotated[str, tyro.conf.Positional]
    formats: tuple[str, ...] = ("onnx",)
    samples: str | None = None


def run_export(arguments: Sequence[str], console: Console) -> Outcome:
    """Export and print one line a file."""
    asked = parse(Export, "export", arguments)
    from distill.samples import real_samples
    from students import export, load_student

    samples = real_samples(asked.samples, 16) if asked.samples else None
    report = export(load_student(asked.student), asked.out, formats=asked.formats, samples=samples)
    table = Table("file", "tower", "kB", "relative error", "ms")
    for row in report.rows:
        table.add_row(
            row["path"],
            row["tower"],
            f"{row['bytes'] / 1000:,.0f}",
            f"{row['relative_error']:.1e}",
            f"{row['latency_ms']:.2f}",
        )
    console.print(table)
    return Outcome(values={"exports": report.rows})
