"""The part of an audit that reads every data file and no picture.

Shard by shard: is each column committed, is its file there and unchanged, does its schema fit, are
its rows those of the index, and is every null row accounted for? shard_check.py does one shard;
here several are read side by side, and their findings put together in the order of the shards.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from reinforced_data.auditing.columns import read_columns
from reinforced_data.auditing.findings import Finding
from reinforced_data.auditing.progress_file import ProgressFile
from reinforced_data.auditing.shard_check import ShardCheck, ShardFindings
from reinforced_data.cores import own_cores
from reinforced_data.store.columns import Column
from reinforced_data.store.layout import Store

# Hashing and reading let go of the interpreter; more threads than these wait for one disk.
_MOST_THREADS = 8
_AT_ONCE = 64


@dataclass(kw_only=True)
class ColumnFindings:
    """What was found of one column; `sound` are the shards whose rows can be relied on."""

    column: Column
    shards: int = 0
    rows: int = 0
    null_rows: int = 0
    bytes: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    missing: list[int] = field(default_factory=list)
    sound: set[int] = field(default_factory=set)


@dataclass(frozen=True)
class UsableRows:
    """The rows of a shard's index that are not null, in few bytes."""

    rows: int
    nulls: tuple[int, ...]

    def __len__(self) -> int:
        """How many."""
        return self.rows - len(self.nulls)

    def numbers(self) -> np.ndarray:
        """Which."""
        return np.delete(np.arange(self.rows), self.nulls)


@dataclass(kw_only=True)
class FileFindings:
    """All columns, the usable rows of each shard's index, and what is wrong."""

    columns: list[ColumnFindings] = field(default_factory=list)
    usable: dict[int, UsableRows] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    def of_kind(self, kind: str) -> list[ColumnFindings]:
        """The columns of one kind."""
        return [found for found in self.columns if found.column.kind == kind]

    def named(self, name: str) -> ColumnFindings | None:
        """The column of this name."""
        return next((found for found in self.columns if found.column.name == name), None)

    def blame(self, finding: Finding) -> None:
        """Note what is wrong with a unit, and rely on it no more."""
        self.findings.append(finding)
        entry = self.named(finding.column or "")
        if entry is not None:
            entry.sound.difference_update(finding.shards)

    def add(self, found: ShardFindings) -> None:
        """Add one more shard's."""
        for entry, unit in zip(self.columns, found.units, strict=True):
            entry.shards += unit.committed
            entry.rows += unit.rows
            entry.null_rows += unit.null_rows
            entry.bytes += unit.bytes
            entry.skipped.update(unit.skipped)
            if unit.finding is not None:
                self.findings.append(unit.finding)
            elif not unit.committed:
                entry.missing.append(found.shard)
            if unit.sound:
                entry.sound.add(found.shard)
        if found.samples is not None:
            rows, nulls = found.samples
            self.usable[found.shard] = UsableRows(rows, tuple(nulls))


def check_files(
    store: Store,
    on_unit: Callable[[], None] = lambda: None,
    progress_file: ProgressFile | None = None,
) -> FileFindings:
    """Check all columns of a store in all shards.

    Args:
        store: the store.
        on_unit: called after each unit, also in other threads; what it raises ends the check.
        progress_file: says which shards were read before, and is told which are read now.
    """
    columns, findings = read_columns(store)
    entries = [ColumnFindings(column=column) for column in columns]
    found = FileFindings(columns=entries, findings=findings)
    for of_shard in _side_by_side(store, columns, on_unit, progress_file):
        found.add(of_shard)
    for entry in found.columns:
        if entry.missing:
            some = ", ".join(map(str, entry.missing[:5]))
            said = (
                f"column {entry.column.name} lacks {len(entry.missing)} of {store.num_shards} "
                f"shards ({some}{', ...' if len(entry.missing) > 5 else ''}): reinforce has not "
                "finished, or the source shard is broken. Run the same reinforce command again"
            )
            findings.append(Finding(kind="missing-shards", text=said, column=entry.column.name))
    return found


def _side_by_side(
    store: Store,
    columns: Sequence[Column],
    on_unit: Callable[[], None],
    progress_file: ProgressFile | None,
) -> Iterator[ShardFindings]:
    """Yield every shard's findings in order, whichever thread is first."""
    before = progress_file.begin(store, columns) if progress_file else {}
    ended: list[BaseException] = []

    def check(shard: int) -> ShardFindings:
        if ended:  # what waits in line is not begun when one was told to stop
            raise ended[0]
        try:
            return read(shard)
        except BaseException as error:
            ended.append(error)
            raise

    def read(shard: int) -> ShardFindings:
        if shard in before:
            for _ in columns:
                on_unit()
            return before[shard]
        found = ShardCheck(store, columns, shard).run(on_unit)
        if progress_file:
            progress_file.add(found)
        return found

    with ThreadPoolExecutor(own_cores(_MOST_THREADS)) as pool:
        for first in range(0, store.num_shards, _AT_ONCE):
            last = min(first + _AT_ONCE, store.num_shards)
            yield from pool.map(check, range(first, last))
