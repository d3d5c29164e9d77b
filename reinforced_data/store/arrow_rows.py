"""Rows of a store's data files: numpy to Arrow and back without a copy.

A data file is one Arrow IPC file with one uncompressed record batch. Its schema's metadata hold
`clip_distill.keys`, a digest of the shard's keys in order, so that columns which do not belong
together are noticed. Null rows are null in every field but the index's `key`; what lies under them
is zero, so that equal rows are equal bytes.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

KEYS = b"clip_distill.keys"
# Of a list array's offsets.
INT32 = np.dtype("<i4")


def keys_digest(keys: Sequence[str]) -> str:
    """SHA-256 of the keys as a JSON list, in hex."""
    return hashlib.sha256(json.dumps(list(keys)).encode()).hexdigest()


def make_batch(arrays: Mapping[str, pa.Array], keys: Sequence[str]) -> pa.RecordBatch:
    """Put fields together and stamp the keys' digest."""
    batch = pa.RecordBatch.from_arrays(list(arrays.values()), names=list(arrays))
    return batch.replace_schema_metadata({KEYS: keys_digest(keys).encode()})


def to_ipc(batch: pa.RecordBatch) -> bytes:
    """Serialise as an Arrow IPC file."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return sink.getvalue().to_pybytes()


def from_ipc(data: pa.Buffer, where: str) -> pa.RecordBatch:
    """Open an Arrow IPC file; nothing is copied.

    Raises:
        ValueError: not such a file, or not exactly one batch.
    """
    try:
        reader = pa.ipc.open_file(
            # No thread pool: forked loader workers read these files too.
            data,
            options=pa.ipc.IpcReadOptions(use_threads=False),
        )
        if reader.num_record_batches != 1:
            raise ValueError(f"{where} has {reader.num_record_batches} record batches, not 1")
        return reader.get_batch(0)
    except (pa.ArrowException, OSError) as error:  # what is wrong inside a batch is an OSError
        raise ValueError(f"{where} is not a readable Arrow IPC file: {error}") from error


def stamped_keys(batch: pa.RecordBatch) -> str:
    """Return the digest of the keys that the file was written for."""
    return (batch.schema.metadata or {}).get(KEYS, b"").decode()


def fixed_lists(values: np.ndarray, valid: np.ndarray, value_type: pa.DataType) -> pa.Array:
    """Make one fixed-size list of all of `values[i]` per row i, null where `valid` is False."""
    size = math.prod(values.shape[1:])
    rows = np.ascontiguousarray(values).reshape(len(valid), size)
    if not valid.all():
        rows = np.where(valid[:, None], rows, np.zeros((), rows.dtype))
    flat = pa.array(rows.reshape(-1), type=value_type)
    return pa.FixedSizeListArray.from_arrays(
        flat, type=pa.list_(value_type, size), mask=_mask(valid)
    )


def ragged_rows(
    values: np.ndarray, counts: np.ndarray, valid: np.ndarray, value_type: pa.DataType
) -> pa.Array:
    """Make row i of the next `counts[i]` vectors of `values`; null rows must count 0."""
    vectors = fixed_lists(values, np.ones(len(values), dtype=bool), value_type)
    return _ragged(vectors, counts, valid)


def ragged_numbers(values: np.ndarray, counts: np.ndarray, valid: np.ndarray) -> pa.Array:
    """Make row i of the next `counts[i]` numbers of `values`."""
    return _ragged(pa.array(values), counts, valid)


def _ragged(items: pa.Array, counts: np.ndarray, valid: np.ndarray) -> pa.Array:
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), items, mask=_mask(valid))


def _mask(valid: np.ndarray) -> pa.Array | None:
    return None if valid.all() else pa.array(~valid)


def valid_rows(array: pa.Array) -> np.ndarray:
    """Which rows are not null; where none is, no memory is taken.

    Of the bits themselves: pyarrow's own ways to NumPy import pandas, half a second a process.
    """
    bits = array.buffers()[0]
    if bits is None:
        return np.broadcast_to(np.True_, len(array))
    places = np.unpackbits(
        np.frombuffer(bits, "u1"), count=array.offset + len(array), bitorder="little"
    )
    return places[array.offset :].view(bool)


def fixed_values(array: pa.Array, dtype: np.dtype) -> np.ndarray:
    """View a fixed-size list array as `(rows, size)`; null rows are whatever lies there."""
    size = array.type.list_size
    if len(array) * size == 0:
        return np.empty((len(array), size), dtype)
    values = np.frombuffer(array.values.buffers()[1], dtype=dtype)
    return values[array.offset * size : (array.offset + len(array)) * size].reshape(-1, size)


def ragged_values(array: pa.Array, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    """View a list array as (offsets, vectors): row i is `vectors[offsets[i]:offsets[i + 1]]`."""
    return numbers(array.offsets, INT32), fixed_values(array.values, dtype)


def numbers(array: pa.Array, dtype: np.dtype) -> np.ndarray:
    """View an array of numbers or of fixed-size bytes; what lies under nulls is meaningless."""
    if not len(array):
        return np.empty(0, dtype)
    values = np.frombuffer(array.buffers()[1], dtype=dtype)
    return values[array.offset : array.offset + len(array)]


class Texts:
    """A string array whose texts become objects when they are asked for, and not before."""

    def __init__(self, array: pa.Array) -> None:
        """View the file's bytes."""
        _, offsets, data = array.buffers()
        self._offsets = np.zeros(1, np.int32)
        if len(array):
            end = array.offset + len(array) + 1
            self._offsets = np.frombuffer(offsets, dtype="<i4")[array.offset : end]
        self._data = memoryview(b"" if data is None else data)

    def some(self, rows: np.ndarray) -> list[str]:
        """Return the texts of some rows; null ones are empty."""
        data = self._data
        bounds = zip(self._offsets[rows].tolist(), self._offsets[rows + 1].tolist(), strict=True)
        return [str(data[start:end], "utf-8") for start, end in bounds]
