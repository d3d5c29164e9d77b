"""`audit`: is a reinforced dataset whole, is its source unchanged, and would its teachers agree?

Every committed file is read and hashed; pictures, views, captions and teachers are checked on
samples. Nothing is repaired and nothing is written: that is repairing.py. docs/audit.md explains
each kind of finding.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from reinforced_data.auditing.bar import AuditBar
from reinforced_data.auditing.derived import check_captions, check_views
from reinforced_data.auditing.files import ColumnFindings, FileFindings, check_files
from reinforced_data.auditing.findings import Finding
from reinforced_data.auditing.progress_file import ProgressFile
from reinforced_data.auditing.sources import (
    Pictures,
    changed_findings,
    check_sources,
    choose_rows,
    read_pictures,
)
from reinforced_data.auditing.teachers import Agreement, TeacherFindings, ask_teachers
from reinforced_data.stop_signals import Interrupted
from reinforced_data.store.layout import Store, open_store
from reinforced_data.store.storage import Storage
from teachers import ClipModel

_AGAIN = "nothing was changed, and the same command begins again"


@dataclass(frozen=True, kw_only=True)
class AuditedColumn:
    """One column in numbers; `skipped` are the null rows that it lists itself, by reason."""

    name: str
    kind: str
    shards: int
    rows: int
    null_rows: int
    bytes: int
    skipped: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class AuditReport:
    """What an audit found.

    Attributes:
        store: the folder.
        findings: what is wrong; empty when all is well.
        notes: what is good to know and no problem.
        counts: `shards`, `samples` (index rows) = `usable` + `skipped`, `columns`, `files` and
            `bytes` read, `members` (images of the source that were checked).
        columns: each column in numbers.
        cosines: column -> how far a live teacher agrees with it.
    """

    store: str
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]
    counts: dict[str, int]
    columns: tuple[AuditedColumn, ...]
    cosines: dict[str, Agreement]

    @property
    def ok(self) -> bool:
        """Whether there is no problem."""
        return not self.findings

    @property
    def problems(self) -> tuple[str, ...]:
        """The findings' texts: what, where, why and what to do."""
        return tuple(finding.text for finding in self.findings)

    def table(self) -> list[dict[str, str]]:
        """Return one row of texts per column, for printing."""
        rows = []
        for column in self.columns:
            agreement = self.cosines.get(column.name)
            rows.append(
                {
                    "column": column.name,
                    "kind": column.kind,
                    "shards": f"{column.shards}/{self.counts['shards']}",
                    "rows": str(column.rows),
                    "null": str(column.null_rows),
                    "bytes": str(column.bytes),
                    "cosine min": f"{agreement.minimum:.4f}" if agreement else "",
                    "error max": f"{agreement.error:.4f}" if agreement else "",
                }
            )
        return rows

    def to_json(self) -> dict[str, Any]:
        """Return JSON values, with `ok` and `problems`."""
        return {"ok": self.ok, "problems": self.problems, **asdict(self)}


def audit(
    store: str | Path,
    *,
    teachers: ClipModel | Iterable[ClipModel] = (),
    replay: int = 64,
    max_error: float = 0.1,
    seed: int = 0,
    progress: bool = True,
    progress_file: str | Path | None = None,
) -> AuditReport:
    """Check a reinforced dataset.

    Args:
        store: its folder or URL.
        teachers: live ones, to embed samples again; matched with their columns by fingerprint.
        replay: how many samples, drawn over all shards, are compared with the source, derived
            again, and embedded again.
        max_error: how far a row may be from what a teacher says now, in units of the distance
            between two different samples; what the codec loses is added.
        seed: of the samples drawn.
        progress: whether to draw a progress bar on stderr.
        progress_file: where to keep, outside the store, which shards are read, for an audit that
            is interrupted; the same call goes on, and the file is removed when it ends. By default
            nothing is kept.

    Raises:
        ValueError: there is no store, something that is no teacher was given, or the progress file
            is another store's. Whatever is wrong inside a store is reported, not raised.
        Interrupted: SIGINT, SIGTERM or SIGUSR1 came.
    """
    kept = None if progress_file is None else ProgressFile(progress_file)
    settings = {"replay": replay, "max_error": max_error, "seed": seed, "progress": progress}
    report = audit_once(store, teachers, kept, **settings)
    if kept is not None:
        kept.finished()
    return report


def audit_once(
    store: str | Path,
    teachers: ClipModel | Iterable[ClipModel],
    kept: ProgressFile | None,
    *,
    replay: int,
    max_error: float,
    seed: int,
    progress: bool,
) -> AuditReport:
    """Do what `audit` does and leave the progress file, for a repair that will audit again."""
    if replay < 0 or max_error <= 0:
        raise ValueError(f"replay must be 0 or more and max_error above 0: {replay}, {max_error}")
    try:
        opened = open_store(store)
    except ValueError as error:
        if not Storage(store).exists("sources.json"):
            raise
        return _unreadable(store, error)
    members = [teachers] if isinstance(teachers, ClipModel) else list(teachers)
    with AuditBar(progress, kept.said if kept else lambda: _AGAIN) as bar:
        found = examine_files(opened, bar, kept)
        pictures, said = _examine_samples(
            opened, found, members, bar, replay=replay, max_error=max_error, seed=seed
        )
    return AuditReport(
        store=opened.name,
        findings=tuple(found.findings),
        notes=(*filter(None, [kept.note() if kept else ""]), *said.notes),
        counts=_counts(opened, found, len(pictures.same) + len(pictures.changed)),
        columns=tuple(_numbers(entry) for entry in found.columns),
        cosines=said.agreements,
    )


def examine_files(store: Store, bar: AuditBar, kept: ProgressFile | None = None) -> FileFindings:
    """Read and hash every committed file, but for those of shards that `kept` knows."""
    bar.begin("files", store.num_shards * len(store.storage.list("columns", ".json")))
    try:
        return check_files(store, bar.step, kept)
    except Interrupted:
        bar.check()  # says it once more: only now have all threads ended
        raise
    finally:
        if kept is not None:
            kept.close()


def _examine_samples(
    store: Store,
    found: FileFindings,
    teachers: list[ClipModel],
    bar: AuditBar,
    *,
    replay: int,
    max_error: float,
    seed: int,
) -> tuple[Pictures, TeacherFindings]:
    bar.begin("source", store.num_shards)
    present, findings = check_sources(store)
    found.findings += findings
    chosen = choose_rows(found, present, replay, seed)
    pictures = Pictures(same={}, changed={}, findings=[])
    if chosen:
        index = found.of_kind("index")[0].column
        pictures = read_pictures(store, index, chosen)
        found.findings += pictures.findings
        check_views(store, found, index, chosen)
        same = sorted(chosen.keys() - {shard for shard, _ in pictures.changed})
        check_captions(store, found, index, same)
    bar.begin("teachers", 2 * len(teachers))
    said = ask_teachers(store, found, teachers, pictures, max_error=max_error, between=bar.step)
    found.findings += changed_findings(store, pictures, said.moved)
    return pictures, said


def _unreadable(store: str | Path, error: ValueError) -> AuditReport:
    """Without its list of shards nothing of a store can be checked."""
    text = f"{error}. Restore the file: it says which source shard each row belongs to"
    names = ("shards", "samples", "usable", "skipped", "columns", "files", "bytes", "members")
    return AuditReport(
        store=Storage(store).name,
        findings=(Finding(kind="damaged-sources", text=text),),
        notes=(),
        counts=dict.fromkeys(names, 0),
        columns=(),
        cosines={},
    )


def _counts(store: Store, found: FileFindings, members: int) -> dict[str, int]:
    rows = sum(entry.rows for entry in found.of_kind("index"))
    usable = sum(len(rows) for rows in found.usable.values())
    return {
        "shards": store.num_shards,
        "samples": rows,
        "usable": usable,
        "skipped": sum(sum(entry.skipped.values()) for entry in found.of_kind("index")),
        "columns": len(found.columns),
        "files": sum(entry.shards for entry in found.columns),
        "bytes": sum(entry.bytes for entry in found.columns),
        "members": members,
    }


def _numbers(entry: ColumnFindings) -> AuditedColumn:
    return AuditedColumn(
        name=entry.column.name,
        kind=entry.column.kind,
        shards=entry.shards,
        rows=entry.rows,
        null_rows=entry.null_rows,
        bytes=entry.bytes,
        skipped=dict(entry.skipped),
    )
