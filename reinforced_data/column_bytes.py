"""What each column of a written store takes: per sample, per shard and once.

A data file is an Arrow file: a part that grows with the rows, and schema and footer that do not.
The latter are those of a file without rows. Codebooks are not fitted for a probe, which may be too
small for that: such a column is written as int8, one byte per number, and told by arithmetic.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pyarrow as pa

from reinforced_data.arrow_rows import to_ipc
from reinforced_data.columns import Column
from reinforced_data.commits import Commit
from reinforced_data.layout import Store
from reinforced_data.product_quantization import NUM_BYTES

# The bytes per sample of so many parts of the store say how sure their mean is.
_PARTS = 8


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
    once: float


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
    rows = sum(commit.rows for commit in commits)
    batches = [store.committed_rows(commit) for commit in commits]
    empty = len(to_ipc(batches[0].slice(0, 0)))
    entries = sum(_record_bytes(commit) for commit in commits)
    records = sum(_record_bytes(replace(commit, skipped=())) for commit in commits)
    grown = sum(commit.num_bytes - empty for commit in commits) + entries - records
    found = ColumnBytes(
        name=column.name,
        kind=column.kind,
        per_sample=grown / rows,
        error=_standard_error([_density(part, empty) for part in _parts(batches, rows)]),
        per_shard=empty + records / len(commits),
        once=len(column.to_json()),
    )
    if codec in NUM_BYTES and column.kind.endswith("_embeddings"):
        return _with_codebook(found, column, batches, NUM_BYTES[codec])
    return found


def _with_codebook(
    found: ColumnBytes, column: Column, batches: list[pa.RecordBatch], num_bytes: int
) -> ColumnBytes:
    """Of int8, one byte per number, make `num_bytes` per vector, and a codebook."""
    width = column.facts["teacher"]["embed_dim"]
    values = sum(_num_values(batch["rows"]) for batch in batches)
    vectors = values / width / sum(batch.num_rows for batch in batches)
    saved = vectors * (width - num_bytes)
    return replace(found, per_sample=found.per_sample - saved, once=found.once + 256 * width * 4)


def _num_values(rows: pa.Array) -> int:
    while isinstance(rows, pa.ListArray | pa.FixedSizeListArray):
        rows = rows.values
    return len(rows)


def _record_bytes(commit: Commit) -> int:
    return len(commit.to_json())


def _parts(batches: list[pa.RecordBatch], rows: int) -> Iterator[pa.RecordBatch]:
    """Cut the rows into parts of nearly the same size."""
    size = max(1, math.ceil(rows / _PARTS))
    for batch in batches:
        pieces = max(1, round(batch.num_rows / size))
        for piece in range(pieces):
            first, end = (batch.num_rows * place // pieces for place in (piece, piece + 1))
            if end > first:
                yield batch.slice(first, end - first)


def _density(batch: pa.RecordBatch, empty: int) -> float:
    return (len(to_ipc(batch)) - empty) / batch.num_rows


def _standard_error(values: list[float]) -> float:
    if len(values) < 2:
        return 0.0
    mean = sum(values) / len(values)
    return math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1) / len(values))
