"""The part of an audit that reads every data file and no picture.

Shard by shard: is each column committed, is its file there and unchanged, does its schema fit, are
its rows those of the index, and is every null row accounted for?
"""

import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from reinforced_data.auditing.columns import read_columns
from reinforced_data.auditing.findings import Finding
from reinforced_data.codecs.of_columns import codec_of
from reinforced_data.embedding import Rows
from reinforced_data.scores.rows import scores_batch
from reinforced_data.store.arrow_rows import keys_digest, stamped_keys, valid_rows
from reinforced_data.store.column_rows import (
    captions_batch,
    image_batch,
    index_batch,
    text_batch,
    views_batch,
)
from reinforced_data.store.columns import Column
from reinforced_data.store.commits import Commit, commit_path
from reinforced_data.store.layout import Store

# The field that is null exactly where a row is.
_VALUES = {
    "index": "sha256",
    "views": "crops",
    "captions": "captions",
    "image_embeddings": "rows",
    "text_embeddings": "rows",
    "scores": "score",
}


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


@dataclass(kw_only=True)
class FileFindings:
    """All columns, the usable rows of each shard's index, and what is wrong."""

    columns: list[ColumnFindings] = field(default_factory=list)
    usable: dict[int, np.ndarray] = field(default_factory=dict)
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


def check_files(store: Store, on_unit: Callable[[], None] = lambda: None) -> FileFindings:
    """Check all columns of a store in all shards; `on_unit` is called after each unit."""
    columns, findings = read_columns(store)
    entries = [ColumnFindings(column=column) for column in columns]
    found = FileFindings(columns=entries, findings=findings)
    for shard in range(store.num_shards):
        _ShardCheck(store, shard, found).run(on_unit)
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


class _ShardCheck:
    """One shard in all columns."""

    def __init__(self, store: Store, shard: int, found: FileFindings) -> None:
        self._store, self._shard, self._found = store, shard, found
        self._keys: list[str] | None = None
        self._nulls: dict[str, np.ndarray] = {}
        self._checking = "damaged-record"

    def run(self, on_unit: Callable[[], None]) -> None:
        for entry in self._found.columns:
            self._checking = "damaged-record"
            try:
                commit = self._store.commit(entry.column, self._shard)
                if commit is None:
                    entry.missing.append(self._shard)
                else:
                    self._check(entry, commit)
            except ValueError as error:
                self._blame(entry, error)
            on_unit()

    def _blame(self, entry: ColumnFindings, error: ValueError) -> None:
        record = f"{self._store.name}/{commit_path(entry.column.name, self._shard)}"
        said = (
            f"{error}. Delete {record} and run the same reinforce command again, or let "
            "`distill audit --repair` do both"
        )
        self._found.blame(
            Finding(kind=self._checking, text=said, column=entry.column.name, shards=(self._shard,))
        )

    def _check(self, entry: ColumnFindings, commit: Commit) -> None:
        """Count a unit, and raise ValueError at the first thing that is wrong with it."""
        column = entry.column
        entry.shards += 1
        entry.rows += commit.rows
        entry.bytes += commit.num_bytes
        entry.skipped.update(skip.reason for skip in commit.skipped)
        if (commit.column, commit.shard) != (column.name, self._shard):
            raise ValueError(
                f"the record of column {column.name}, shard {self._shard}, in {self._store.name} "
                f"is that of column {commit.column}, shard {commit.shard}"
            )
        self._checking = "damaged-file"
        self._check_checksum(commit)
        batch = self._store.committed_rows(commit)
        self._checking = "wrong-schema"
        self._check_schema(column, batch, f"{self._store.name}/{commit.data}")
        self._checking = "other-samples"
        self._check_keys(column, batch, commit)
        if column.kind in _VALUES:
            self._checking = "wrong-nulls"
            nulls = ~valid_rows(batch[_VALUES[column.kind]])
            entry.null_rows += int(nulls.sum())
            self._check_nulls(column, nulls, commit)
        entry.sound.add(self._shard)

    def _check_checksum(self, commit: Commit) -> None:
        where = f"{self._store.name}/{commit.data}"
        try:
            data = self._store.storage.open_buffer(commit.data)
        except OSError as error:
            raise ValueError(f"{where} is missing though it was committed") from error
        digest = hashlib.sha256(data).hexdigest()
        if digest != commit.sha256:
            raise ValueError(
                f"{where} ({data.size} bytes) has the sha256 {digest[:12]}..., its commit says "
                f"{commit.sha256[:12]}... and {commit.num_bytes} bytes: the file was damaged or "
                "edited after it was written"
            )

    def _check_schema(self, column: Column, batch: pa.RecordBatch, where: str) -> None:
        expected = self._expected_schema(column)
        if expected is not None and not batch.schema.equals(expected, check_metadata=False):
            raise ValueError(
                f"{where} has the fields {_describe(batch.schema)}; a column of kind "
                f"{column.kind} like this one has {_describe(expected)}"
            )

    def _expected_schema(self, column: Column) -> pa.Schema | None:
        """Ask the writer what it writes for no rows at all."""
        if column.kind == "index":
            return index_batch([]).schema
        if column.kind == "captions":
            return captions_batch([], []).schema
        if column.kind == "views":
            return views_batch(column, [], []).schema
        if column.kind == "scores":
            return scores_batch(np.empty(0, np.float32), np.empty(0, dtype=bool), []).schema
        if column.kind not in ("image_embeddings", "text_embeddings"):
            return None
        codec = codec_of(self._store.storage, column)
        width = column.facts.get("teacher", {}).get("embed_dim")
        if width is None:
            return None
        rows = Rows(np.empty((0, width), np.float32), np.empty(0, np.float32))
        if column.kind == "text_embeddings":
            return text_batch(codec, rows, np.empty(0, np.int64), []).schema
        views = {found.column.name: found.column for found in self._found.of_kind("views")}
        parent = views.get(column.identity["hangs_on"])
        if parent is None:
            return None
        nothing = np.empty(0, dtype=bool)
        return image_batch(codec, rows, parent.identity["num_views"], nothing, []).schema

    def _check_keys(self, column: Column, batch: pa.RecordBatch, commit: Commit) -> None:
        """The index's keys are the shard's; the other columns must have been written for them."""
        where = f"{self._store.name}/{commit.data}"
        keys = batch["key"].to_pylist() if column.kind == "index" else self._keys
        if keys is None:
            return
        if batch.num_rows != len(keys):
            raise ValueError(
                f"{where} has {batch.num_rows} rows, the index of shard {self._shard} has "
                f"{len(keys)}"
            )
        if stamped_keys(batch) != keys_digest(keys):
            raise ValueError(
                f"{where} was written for other samples than the index of shard {self._shard} lists"
            )
        if column.kind == "index":
            self._keys = keys
            self._found.usable[self._shard] = np.flatnonzero(valid_rows(batch["sha256"]))

    def _check_nulls(self, column: Column, nulls: np.ndarray, commit: Commit) -> None:
        """A row is null because it was skipped, here or in the column that this one hangs on."""
        self._nulls[column.name] = nulls
        listed = np.zeros_like(nulls)
        for skip in commit.skipped:
            in_range = 0 <= skip.row < len(nulls)
            if not in_range or (self._keys is not None and self._keys[skip.row] != skip.key):
                raise ValueError(
                    f"{column.name}, shard {self._shard}: its commit skips row {skip.row} as "
                    f"sample {skip.key!r}, which is not that row's sample"
                )
            listed[skip.row] = True
        parent = column.identity.get("hangs_on")
        if parent is not None:
            if parent not in self._nulls:
                return
            listed |= self._nulls[parent]
        if not np.array_equal(nulls, listed):
            row = int(np.flatnonzero(nulls != listed)[0])
            key = self._keys[row] if self._keys is not None else "?"
            state = "null without a reason" if nulls[row] else "skipped but not null"
            raise ValueError(
                f"{column.name}, shard {self._shard}: {int((nulls != listed).sum())} rows do not "
                f"fit their commit; row {row}, sample {key!r}, is {state}"
            )


def _describe(schema: pa.Schema) -> str:
    return ", ".join(f"{name}: {schema.field(name).type}" for name in schema.names)
