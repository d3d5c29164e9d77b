"""`distill profile`: how big and how fast a student is."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from rich.console import Console
from rich.table import Table

from distill.cli.outcome import Outcome
from distill.cli.parsing import parse

if TYPE_CHECKING:
    from students import Profile


@dataclass(frozen=True, kw_only=True)
class ProfileArguments:
    """Count and time a student's towers, as they train and as they ship.

    Parameters, multiplications and activations are counted and the same everywhere; times are this
    machine's, median and 95th percentile of single calls after the warm-up.

    Attributes:
        student: a student's folder, or a student by name (distill list students).
        batch_size: pictures, or texts, a call.
        threads: CPU threads.
        warmup: unmeasured calls before.
        repeats: timed calls.
        device: where it runs: cpu, cuda, cuda:1, mps.
    """

    student: Annotated[str, tyro.conf.Positional]
    batch_size: int = 1
    threads: int = 1
    warmup: int = 3
    repeats: int = 20
    device: str = "cpu"


def run(arguments: Sequence[str], console: Console) -> Outcome:
    """Build or load, measure, print."""
    asked = parse(ProfileArguments, "profile", arguments)
    from students import build_student, load_student, profile
    from students.student import CONFIG_FILE

    saved = (Path(asked.student) / CONFIG_FILE).is_file()
    student = load_student(asked.student) if saved else build_student(asked.student)
    measured = profile(
        student.to(asked.device),
        batch_size=asked.batch_size,
        threads=asked.threads,
        warmup=asked.warmup,
        repeats=asked.repeats,
    )
    _print(asked.student, measured, console)
    return Outcome(values={"student": asked.student, **asdict(measured)})


def _print(name: str, measured: "Profile", console: Console) -> None:
    plural = "threads" if measured.threads > 1 else "thread"
    table = Table(
        *("tower", "form", "params", "weights", "MACs", "activations", "median", "p95"),
        title=f"{name}: batch {measured.batch_size}, {measured.threads} {plural}, "
        f"{measured.repeats} calls on {measured.device}",
    )
    for column in table.columns[2:]:
        column.justify = "right"
    for row in measured.towers:
        table.add_row(
            row.tower,
            row.form,
            f"{row.params / 1e6:.2f} M",
            f"{row.bytes / 1e6:.1f} MB",
            f"{row.macs:,.0f} M",
            f"{row.peak_bytes / 1e6:.1f} MB",
            f"{row.latency_ms:.2f} ms",
            f"{row.latency_p95_ms:.2f} ms",
        )
    console.print(table)
