"""`audit`: is a reinforced dataset whole, is its source unchanged, and would its teachers agree?

Every committed file is read and hashed; pictures and teachers are checked on samples. Nothing is
repaired and nothing is written.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from reinforced_data.auditing_files import (
    ColumnFindings,
    FileFindings,
    check_files,
    check_sources,
    orphans,
)
from reinforced_data.auditing_samples import (
    Agreement,
    choose_rows,
    compare,
    match_teachers,
    read_members,
)
from reinforced_data.layout import Store, open_store
from reinforced_data.storage import Storage
from teachers import ClipModel


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
        problems: what, where, why and what to do; empty when all is well.
        counts: `shards`, `samples` (index rows) = `usable` + `skipped`, `columns`, `files` and
            `bytes` read, `members` (images of the source that were checked).
        columns: each column in numbers.
        cosines: column -> how far a live teacher agrees with it.
    """

    store: str
    problems: tuple[str, ...]
    counts: dict[str, int]
    columns: tuple[AuditedColumn, ...]
    cosines: dict[str, Agreement]

    @property
    def ok(self) -> bool:
        """Whether there is no problem."""
        return not self.problems

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
                    "cosine mean": f"{agreement.mean:.4f}" if agreement else "",
                }
            )
        return rows

    def to_json(self) -> dict[str, Any]:
        """Return JSON values, with `ok`."""
        return {"ok": self.ok, **asdict(self)}


def audit(
    store: str | Path,
    *,
    teachers: ClipModel | Iterable[ClipModel] = (),
    samples: int = 64,
    min_cosine: float = 0.99,
    seed: int = 0,
) -> AuditReport:
    """Check a reinforced dataset.

    Args:
        store: its folder or URL.
        teachers: live ones, to embed samples again; matched with their columns by fingerprint.
        samples: how many samples are compared with the source and embedded again.
        min_cosine: below it a row counts as wrong.
        seed: of the samples drawn.

    Raises:
        ValueError: there is no store, or something that is no teacher was given. Whatever is wrong
            inside a store is reported, not raised.
    """
    if samples < 0:
        raise ValueError(f"samples must be 0 or more, got {samples}")
    try:
        opened = open_store(store)
    except ValueError as error:
        if not Storage(store).exists("sources.json"):
            raise
        return _unreadable(store, error)
    members = [teachers] if isinstance(teachers, ClipModel) else list(teachers)
    found = check_files(opened)
    found.problems += orphans(opened, [entry.column for entry in found.columns])
    present, problems = check_sources(opened)
    pairs, unmatched = match_teachers(found, members)
    found.problems += problems + unmatched
    chosen = choose_rows(found, present, samples, seed)
    images: dict[tuple[int, int], bytes] = {}
    if chosen:
        index = found.of_kind("index")[0].column
        images, changed = read_members(opened, index, chosen)
        found.problems += changed
    cosines = {}
    for teacher, entry in pairs:
        agreement, low = compare(opened, found, teacher, entry, images, min_cosine)
        found.problems += low
        if agreement is not None:
            cosines[entry.column.name] = agreement
    return AuditReport(
        store=opened.name,
        problems=tuple(found.problems),
        counts=_counts(opened, found, sum(map(len, chosen.values()))),
        columns=tuple(_numbers(entry) for entry in found.columns),
        cosines=cosines,
    )


def _unreadable(store: str | Path, error: ValueError) -> AuditReport:
    """Without its list of shards nothing of a store can be checked."""
    found = f"{error}. Restore the file: it says which source shard each row belongs to"
    names = ("shards", "samples", "usable", "skipped", "columns", "files", "bytes", "members")
    return AuditReport(
        store=Storage(store).name,
        problems=(found,),
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
