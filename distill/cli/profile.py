"""`distill profile`: how big and how fast a student is, and the files that were made of it."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from rich.console import Console
from rich.table import Table

from distill.cli.outcome import Failed, Outcome
from distill.cli.parsing import parse

if TYPE_CHECKING:
    from students import Profile
    from students.exporters.profiling import FileProfile, Protocol


@dataclass(frozen=True, kw_only=True)
class ProfileArguments:
    """Count and time a student's towers, as they train, as they ship, and as exported files.

    Parameters, multiplications and activations are counted and the same everywhere; times are this
    machine's, median and 95th percentile of single calls after the warm-up. With files each row is
    measured in a process of its own, and its peak memory (above the runtime's) is there, too.

    Attributes:
        student: a student's folder, or a student by name (distill list students); or an exported
            folder or file, whose files are measured alone.
        files: folders that distill export wrote, or files in them.
        batch_size: pictures, or texts, a call; of files that fix it, their own.
        threads: CPU threads.
        warmup: unmeasured calls before.
        repeats: timed calls.
        device: where the student runs: cpu, cuda, cuda:1, mps; files run on the CPU.
        out: write the numbers here as JSON.
    """

    student: Annotated[str, tyro.conf.Positional]
    files: tuple[Path, ...] = ()
    batch_size: int = 1
    threads: int = 1
    warmup: int = 3
    repeats: int = 20
    device: str = "cpu"
    out: Path | None = None


def run(arguments: Sequence[str], console: Console) -> Outcome:
    """Build or load, measure, print."""
    asked = parse(ProfileArguments, "profile", arguments)
    from students.exporters.metadata import METADATA_FILE
    from students.exporters.profiling import Protocol

    protocol = Protocol(
        batch_size=asked.batch_size,
        threads=asked.threads,
        warmup=asked.warmup,
        repeats=asked.repeats,
    )
    given = Path(asked.student)
    exported = given.is_file() or (given / METADATA_FILE).is_file()
    measured = None if exported else _student(asked)
    with console.status("Measuring") as status:
        rows = []
        try:
            for row in _rows(asked, protocol, exported=exported):
                rows.append(row)
                status.update(f"Measured {row.form} {row.tower}")
        except RuntimeError as error:
            raise Failed(str(error)) from error
    if measured is not None and rows:
        measured = _timed_alone(measured, rows, protocol)
    _print(asked, measured, [row for row in rows if row.path is not None], console)
    values = {"student": asked.student, **asdict(measured if measured is not None else protocol)}
    values["files"] = [asdict(row) for row in rows if row.path is not None]
    if asked.out is not None:
        asked.out.parent.mkdir(parents=True, exist_ok=True)
        asked.out.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    return Outcome(values=values)


def _student(asked: ProfileArguments) -> "Profile":
    from students import build_student, load_student, profile
    from students.student import CONFIG_FILE

    if asked.files and asked.device != "cpu":
        raise ValueError(f"files run on the CPU: leave out --device {asked.device}, or --files")
    saved = (Path(asked.student) / CONFIG_FILE).is_file()
    student = load_student(asked.student) if saved else build_student(asked.student)
    # With files, times are those of processes of their own.
    return profile(
        student.to(asked.device),
        batch_size=asked.batch_size,
        threads=asked.threads,
        warmup=0 if asked.files else asked.warmup,
        repeats=1 if asked.files else asked.repeats,
    )


def _rows(
    asked: ProfileArguments, protocol: "Protocol", *, exported: bool
) -> "Iterator[FileProfile]":
    from students.exporters.profiling import exported_files, profile_eager, profile_files

    given = [Path(asked.student)] if exported else []
    places = [exported_files(place) for place in [*given, *asked.files]]
    if places and not exported:
        yield from profile_eager(asked.student, protocol)
    for folder, towers in places:
        yield from profile_files(folder, towers, protocol)


def _timed_alone(
    measured: "Profile", rows: "Sequence[FileProfile]", protocol: "Protocol"
) -> "Profile":
    """Put the times and the memory of processes of their own into a student's rows."""
    alone = {(row.tower, row.form): row for row in rows if row.path is None}
    towers = [
        replace(
            row,
            latency_ms=alone[row.tower, row.form].latency_ms,
            latency_p95_ms=alone[row.tower, row.form].latency_p95_ms,
            memory_bytes=alone[row.tower, row.form].memory_bytes,
        )
        for row in measured.towers
    ]
    said = {"warmup": protocol.warmup, "repeats": protocol.repeats}
    return replace(measured, towers=tuple(towers), **said)


def _print(
    asked: ProfileArguments,
    measured: "Profile | None",
    files: "Sequence[FileProfile]",
    console: Console,
) -> None:
    plural = "threads" if asked.threads > 1 else "thread"
    columns = ("params", "size", "MACs", "activations", "peak memory", "median", "p95")
    table = Table(
        *("tower", "form", *columns),
        title=f"{asked.student}: batch {asked.batch_size}, {asked.threads} {plural}, "
        f"{asked.warmup} calls before {asked.repeats} timed ones on {asked.device}",
    )
    for column in table.columns[2:]:
        column.justify = "right"
    for row in () if measured is None else measured.towers:
        table.add_row(
            row.tower,
            row.form,
            f"{row.params / 1e6:.2f} M",
            f"{row.bytes / 1e6:.1f} MB",
            f"{row.macs:,.0f} M",
            f"{row.peak_bytes / 1e6:.1f} MB",
            _megabytes(row.memory_bytes),
            f"{row.latency_ms:.2f} ms",
            f"{row.latency_p95_ms:.2f} ms",
        )
    for row in files:
        own = "" if row.threads else ", its own threads"
        batch = "" if row.batch_size == asked.batch_size else f", batch {row.batch_size}"
        table.add_row(
            row.tower,
            f"{row.form}{own}{batch}",
            "",
            f"{row.bytes / 1e6:.1f} MB",
            "",
            "",
            _megabytes(row.memory_bytes),
            f"{row.latency_ms:.2f} ms",
            f"{row.latency_p95_ms:.2f} ms",
        )
    console.print(table)


def _megabytes(count: int | None) -> str:
    return "" if count is None else f"{count / 1e6:.1f} MB"
