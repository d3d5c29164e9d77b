"""`distill audit`: is a reinforced dataset what it says it is?"""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from distill.cli.data import QUARANTINED
from distill.cli.outcome import Outcome
from distill.cli.parsing import hint_at_gpu, parse
from teachers.captioners.settings import CaptionerSettings

if TYPE_CHECKING:
    from reinforced_data.auditing.auditing import AuditReport
    from reinforced_data.auditing.repairing import RepairReport


@dataclass(frozen=True, kw_only=True)
class Audit:
    """Check a reinforced dataset: checksums, schema, counts, source, views, captions, teachers.

    Every file is read and hashed. Samples are compared with the source, and embedded again by the
    teachers that are given. Nothing is changed, unless you ask to repair it. docs/audit.md says
    what each finding means.

    Attributes:
        store: the reinforced dataset's folder, or any fsspec URL.
        teachers: load these and embed samples again.
        precision: of the teachers' weights.
        replay: how many samples are compared with the source and embedded again.
        max_error: how far a row may be from what its teacher says now, in units of the distance
            between two different samples; what the codec loses is added.
        seed: of the samples drawn.
        repair: do again what is damaged, from the source and with the teachers that are given.
        captioners: of a repair, who has written a damaged caption set: see distill list captioners.
        captioner_settings: of these captioners, as they were set up then.
        batch_size: of a repair; that of reinforce gives the same bytes as then.
        progress_file: where an audit keeps which shards it has read, so that the same command goes
            on where it was stopped; outside the store, by default in your cache folder. Removed
            when the audit ends.
        html: also write a page about what the store holds, to look at: one file.
        device: where the teachers run.
    """

    store: Annotated[str, tyro.conf.Positional]
    teachers: tuple[str, ...] = ()
    precision: Literal["fp32", "bf16", "int8", "nf4"] = "fp32"
    replay: int = 64
    max_error: float = 0.1
    seed: int = 0
    repair: bool = False
    captioners: tuple[str, ...] = ()
    captioner_settings: CaptionerSettings = field(default_factory=CaptionerSettings)
    batch_size: int = 256
    progress_file: Path | None = None
    html: Path | None = None
    device: str = "cpu"


def run(arguments: Sequence[str], console: Console) -> Outcome:
    """Audit, print a row a column and every problem; exit code 3 when there is one."""
    asked = parse(Audit, "audit", arguments)
    if asked.teachers:
        hint_at_gpu(asked.device, console)
    from distill.model_loading import load_frozen
    from reinforced_data import audit, repair
    from reinforced_data.auditing.progress_file import usual_progress_file
    from teachers import load_captioner

    teachers = [load_frozen(spec, asked.precision, asked.device) for spec in asked.teachers]
    settings = {
        "teachers": teachers,
        "replay": asked.replay,
        "max_error": asked.max_error,
        "seed": asked.seed,
        "progress": not console.quiet,
        "progress_file": asked.progress_file or usual_progress_file(asked.store),
    }
    if asked.repair:
        writers = [load_captioner(spec, asked.captioner_settings) for spec in asked.captioners]
        more = {"captioners": writers, "batch_size": asked.batch_size}
        repaired = repair(asked.store, **more, **settings)
        _print_repair(repaired, console)
        report, values = repaired.audit, repaired.to_json()
    else:
        report = audit(asked.store, **settings)
        values = report.to_json()
    _print(report, console)
    if asked.html is not None:
        values["html"] = str(
            _write_page(asked, report, shlex.join(["distill", "audit", *arguments]))
        )
        console.print(f"wrote {asked.html}", highlight=False, markup=False)
    return Outcome(values=values, exit_code=0 if report.ok else QUARANTINED)


def _write_page(asked: Audit, report: "AuditReport", command: str) -> Path:
    from distill.health_page import write_health

    if not report.columns:
        raise ValueError(f"{report.store} has nothing to show: {'; '.join(report.problems)}")
    return write_health(asked.html or "", report, seed=asked.seed, command=command)


def _print_repair(repaired: "RepairReport", console: Console) -> None:
    for column, shard, why in repaired.redone:
        console.print(f"repaired: {escape(column)}, shard {shard} ({why})", highlight=False)
    for text in repaired.left:
        console.print(f"[yellow]left:[/] {escape(text)}", highlight=False, soft_wrap=True)


def _print(report: "AuditReport", console: Console) -> None:
    rows = report.table()
    if rows:
        table = Table(box=SIMPLE_HEAD if console.is_terminal else None, pad_edge=False)
        for place, name in enumerate(rows[0]):
            table.add_column(name, justify="left" if place < 2 else "right", no_wrap=True)
        for row in rows:
            table.add_row(*map(escape, row.values()))
        console.print(table)
    for note in report.notes:
        console.print(f"[yellow]note:[/] {escape(note)}", highlight=False, soft_wrap=True)
    for finding in report.findings:
        console.print(
            f"[bold red]{finding.kind}:[/] {escape(finding.text)}", highlight=False, soft_wrap=True
        )
    counted = f"{report.counts['members']:,} of {report.counts['samples']:,} samples compared"
    if report.ok:
        console.print(f"[green]no problems[/]; {counted}", highlight=False)
    else:
        more = "s" if len(report.findings) > 1 else ""
        console.print(f"{len(report.findings)} problem{more}; {counted}", highlight=False)
