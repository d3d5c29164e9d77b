"""One shard of a store in all its columns: is it there, unchanged, and of a piece?"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

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
class UnitFindings:
    """What was found of one column of one shard; `sound` when its rows can be relied on."""

    committed: bool = False
    rows: int = 0
    null_rows: int = 0
    bytes: int = 0
    skipped: dict[str, int] = field(default_factory=dict)
    sound: bool = False
    finding: Finding | None = None


@dataclass(kw_only=True)
class ShardFindings:
    """What was found of one shard.

    Attributes:
        shard: its number.
        units: one a column, in the order of the columns.
        samples: rows of its index, and those of them that are null; None when that cannot be read.
    """

    shard: int
    units: list[UnitFindings] = field(default_factory=list)
    samples: tuple[int, list[int]] | None = None

    def to_json(self) -> dict[str, Any]:
        """Return JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "ShardFindings":
        """Take back what `to_json` has returned of a shard in which nothing was wrong."""
        units = [UnitFindings(**unit) for unit in values["units"]]
        samples = values["samples"]
        return cls(shard=values["shard"], units=units, samples=samples and tuple(samples))


class ShardCheck:
    """Reads and hashes every file of one shard; nothing is shared with other shards' checks."""

    def __init__(self, store: Store, columns: Sequence[Column], shard: int) -> None:
        """Nothing is read yet."""
        self._store, self._columns, self._shard = store, columns, shard
        self._found = ShardFindings(shard=shard)
        self._keys: list[str] | None = None
        self._nulls: dict[str, np.ndarray] = {}
        self._checking = "damaged-record"

    def run(self, on_unit: Callable[[], None]) -> ShardFindings:
        """Check column after column; `on_unit` is called after each."""
        for column in self._columns:
            unit = UnitFindings()
            self._found.units.append(unit)
            self._checking = "damaged-record"
            try:
                commit = self._commit(column)
                if commit is not None:
                    unit.committed = True
                    self._check(column, commit, unit)
                    unit.sound = True
            except ValueError as error:
                unit.finding = self._finding(column, error)
            on_unit()
        return self._found

    def _commit(self, column: Column) -> Commit | None:
        try:
            return self._store.commit(column, self._shard)
        except OSError as error:
            if not self._store.storage.local:
                raise  # a server's fault says nothing of the store
            record = f"{self._store.name}/{commit_path(column.name, self._shard)}"
            raise ValueError(f"{record} cannot be read: {error}") from error

    def _finding(self, column: Column, error: ValueError) -> Finding:
        record = f"{self._store.name}/{commit_path(column.name, self._shard)}"
        said = (
            f"{error}. Delete {record} and run the same reinforce command again, or let "
            "`distill audit --repair` do both"
        )
        return Finding(kind=self._checking, text=said, column=column.name, shards=(self._shard,))

    def _check(self, column: Column, commit: Commit, unit: UnitFindings) -> None:
        """Count a unit, and raise ValueError at the first thing that is wrong with it."""
        unit.rows, unit.bytes = commit.rows, commit.num_bytes
        unit.skipped = dict(Counter(skip.reason for skip in commit.skipped))
        if (commit.column, commit.shard) != (column.name, self._shard):
            raise ValueError(
                f"the record of column {column.name}, shard {self._shard}, in {self._store.name} "
                f"is that of column {commit.column}, shard {commit.shard}"
            )
        self._checking = "damaged-file"
        batch = self._store.rows_of(commit, self._unchanged(commit))
        self._checking = "wrong-schema"
        self._check_schema(column, batch, f"{self._store.name}/{commit.data}")
        self._checking = "other-samples"
        self._check_keys(column, batch, commit)
        if column.kind in _VALUES:
            self._checking = "wrong-nulls"
            nulls = ~valid_rows(batch[_VALUES[column.kind]])
            unit.null_rows = int(nulls.sum())
            self._check_nulls(column, nulls, commit)

    def _unchanged(self, commit: Commit) -> pa.Buffer:
        """Read the whole data file, and compare its checksum."""
        where = f"{self._store.name}/{commit.data}"
        try:
            digest, data = self._store.storage.hashed_buffer(commit.data)
        except FileNotFoundError as error:
            raise ValueError(f"{where} is missing though it was committed") from error
        except OSError as error:
            if not self._store.storage.local:
                raise  # as of a record
            raise ValueError(f"{where} cannot be read: {error}") from error
        if digest != commit.sha256:
            raise ValueError(
                f"{where} ({data.size} bytes) has the sha256 {digest[:12]}..., its commit says "
                f"{commit.sha256[:12]}... and {commit.num_bytes} bytes: the file was damaged or "
                "edited after it was written"
            )
        return data

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
        hangs_on = column.identity["hangs_on"]
        parent = next((c for c in self._columns if (c.kind, c.name) == ("views", hangs_on)), None)
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
            nulls = np.flatnonzero(~valid_rows(batch["sha256"])).tolist()
            self._found.samples = (batch.num_rows, nulls)

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
