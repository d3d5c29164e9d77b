"""What each column of a written store takes: per sample, per shard and once.

A data file is an Arrow file: a part that grows with the rows, and schema and footer that do not.
Which is which shows when the same rows are written eight times over; buffers are padded, so a small
file and an empty one would mislead. Codebooks are not fitted for a probe, which may be too
small for that: such a column is written as int8, one byte per number, and told by arithmetic.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pyarrow as pa

from reinforced_data.codecs.product_quantization import NUM_BYTES
from reinforced_data.store.arrow_rows import to_ipc
from reinforced_data.store.columns import Column
from reinforced_data.store.layout import Store

# The bytes per sample of so many parts of the store say how sure their mean is.
_PARTS = 8
_TIMES = 8


@dataclass(frozen=True, kw_only=True)
class ColumnBytes:
    """What a column takes on disk.

    Attributes:
        name, kind: of the column.
        per_sample: bytes of its data file and its commit record per sample, null rows included.
        error: one standard error of `per_sample`.
        per_shard: bytes of a shard's data file and commit record without any sample.
        once: bytes of the column's own files.
    """

    name: str
    kind: str
    per_sample: float
    error: float
    per_shard: float
    once: int


def measure_columns(store: Store, codec: str) -> list[ColumnBytes]:
    """Measure every column of a store that holds a few shards.

    Args:
        store: complete; embeddings in `codec`, or in int8 for one with a codebook.
        codec: what the embeddings are to be stored as.
    """
    return [_measure(store, column, codec) for column in store.columns()]


def stored_as(codec: str) -> str:
    """The codec in which a probe writes embeddings that are to be stored as `codec`."""
    return "int8" if codec in NUM_BYTES else codec


def _measure(store: Store, column: Column, codec: str) -> ColumnBytes:
    commits = [found for shard in store.done(column) if (found := store.commit(column, shard))]
    rows = _joined([store.committed_rows(commit) for commit in commits])
    size, repeated = len(to_ipc(rows)), len(to_ipc(_joined([rows] * _TIMES)))
    slope = (repeated - size) / (_TIMES - 1) / rows.num_rows
    empty = size - slope * rows.num_rows
    records = sum(len(replace(commit, skipped=()).to_json()) for commit in commits)
    entries = sum(len(commit.to_json()) for commit in commits) - records
    found = ColumnBytes(
        name=column.name,
        kind=column.kind,
        per_sample=slope + entries / rows.num_rows,
        error=_standard_error([(len(to_ipc(p)) - empty) / p.num_rows for p in _parts(rows)]),
        per_shard=empty + records / len(commits),
        once=len(column.to_json()),
    )
    if codec in NUM_BYTES and column.kind.endswith("_embeddings"):
        return _with_codebook(found, column, rows, NUM_BYTES[codec])
    return found


def _joined(batches: list[pa.RecordBatch]) -> pa.RecordBatch:
    return pa.Table.from_batches(batches).combine_chunks().to_batches()[0]


def _with_codebook(
    found: ColumnBytes, column: Column, rows: pa.RecordBatch, num_bytes: int
) -> ColumnBytes:
    """Of int8, one byte per number, make `num_bytes` per vector, and a codebook."""
    width = column.facts["teacher"]["embed_dim"]
    vectors = _num_values(rows["rows"]) / width / rows.num_rows
    saved = vectors * (width - num_bytes)
    return replace(found, per_sample=found.per_sample - saved, once=found.once + 256 * width * 4)


def _num_values(rows: pa.Array) -> int:
    while isinstance(rows, pa.ListArray | pa.FixedSizeListArray):
        rows = rows.values
    return len(rows)


def _parts(rows: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """Cut the rows into parts of nearly the same size, each a copy: a slice keeps its buffers."""
    count = min(_PARTS, rows.num_rows)
    for part in range(count):
        first, end = (rows.num_rows * place // count for place in (part, part + 1))
        yield rows.take(pa.array(range(first, end)))


def _standard_error(values: list[float]) -> float:
    if len(values) < 2:
        return 0.0
    mean = sum(values) / len(values)
    return math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1) / len(values))
