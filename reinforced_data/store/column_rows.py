"""The schema of each kind of column: rows to record batches, and batches to numpy views."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa

from reinforced_data.codecs.codec import Codec
from reinforced_data.codecs.of_columns import stored_dtype
from reinforced_data.embedding import Rows
from reinforced_data.operations import OPERATIONS
from reinforced_data.resampling import check_render_version
from reinforced_data.store.arrow_rows import (
    INT32,
    Texts,
    fixed_lists,
    fixed_values,
    make_batch,
    numbers,
    ragged_numbers,
    ragged_rows,
    ragged_values,
    valid_rows,
)
from reinforced_data.store.columns import Column
from reinforced_data.views import View

_FLOAT32 = np.dtype("<f4")
_UINT8 = np.dtype("u1")
_INT64 = np.dtype("<i8")
_SHA256 = np.dtype("V32")


@dataclass(frozen=True, kw_only=True)
class IndexRow:
    """Where a sample's image is; all but the key is None for a skipped sample."""

    key: str
    offset: int | None = None
    size: int | None = None
    width: int | None = None
    height: int | None = None
    sha256: bytes | None = None


def index_batch(rows: Sequence[IndexRow]) -> pa.RecordBatch:
    """Schema: key, offset, size, width, height, sha256."""
    fields = {
        "offset": pa.int64(),
        "size": pa.int64(),
        "width": pa.int32(),
        "height": pa.int32(),
        "sha256": pa.binary(hashlib.sha256().digest_size),
    }
    keys = [row.key for row in rows]
    arrays = {"key": pa.array(keys, pa.string())}
    for name, arrow_type in fields.items():
        arrays[name] = pa.array([getattr(row, name) for row in rows], arrow_type)
    return make_batch(arrays, keys)


def captions_batch(
    captions: Sequence[tuple[str, ...] | None], keys: Sequence[str]
) -> pa.RecordBatch:
    """Schema: captions, a list of texts; null for None."""
    texts = pa.array([None if c is None else list(c) for c in captions], pa.list_(pa.string()))
    return make_batch({"captions": texts}, keys)


def views_batch(
    column: Column, views: Sequence[Sequence[View]], keys: Sequence[str]
) -> pa.RecordBatch:
    """Schema: crops K x 4, operations K x N (codes), magnitudes K x N; null without views."""
    num_views = column.identity["num_views"]
    codes = {name: code for code, name in enumerate(column.facts["operations"])}
    num_ops = ops_per_view(column)
    crops = np.zeros((len(keys), num_views, 4), np.float32)
    operations = np.full((len(keys), num_views, num_ops), codes["identity"], np.uint8)
    magnitudes = np.zeros((len(keys), num_views, num_ops), np.float32)
    for row, sample_views in enumerate(views):
        for k, view in enumerate(sample_views):
            crops[row, k] = view.crop
            for n, (name, magnitude) in enumerate(view.ops):
                operations[row, k, n] = codes[name]
                magnitudes[row, k, n] = magnitude
    valid = np.array([bool(sample_views) for sample_views in views], dtype=bool)
    arrays = {
        "crops": fixed_lists(crops, valid, pa.float32()),
        "operations": fixed_lists(operations, valid, pa.uint8()),
        "magnitudes": fixed_lists(magnitudes, valid, pa.float32()),
    }
    return make_batch(arrays, keys)


def ops_per_view(column: Column) -> int:
    """Return N, the operation slots of a view; at least one, filled up with the identity."""
    policy = column.identity["policy"]
    return max(1, policy["num_ops"] + (policy["flip"] > 0))


def image_batch(
    codec: Codec, rows: Rows, num_views: int, valid: np.ndarray, keys: Sequence[str]
) -> pa.RecordBatch:
    """Schema: rows K x W and norms K; `rows` has K vectors for each valid sample, in order."""
    encoded = codec.encode(rows.unit)
    values = np.zeros((len(keys), num_views, encoded.shape[1]), codec.dtype)
    norms = np.zeros((len(keys), num_views), np.float32)
    values[valid] = encoded.reshape(-1, num_views, encoded.shape[1])
    norms[valid] = rows.norms.reshape(-1, num_views)
    arrays = {
        "rows": fixed_lists(values, valid, codec.value_type),
        "norms": fixed_lists(norms, valid, pa.float32()),
    }
    return make_batch(arrays, keys)


def text_batch(codec: Codec, rows: Rows, counts: np.ndarray, keys: Sequence[str]) -> pa.RecordBatch:
    """Schema: rows S x W and norms S; sample i has the next `counts[i]` vectors, null without."""
    valid = counts > 0
    arrays = {
        "rows": ragged_rows(codec.encode(rows.unit), counts, valid, codec.value_type),
        "norms": ragged_numbers(rows.norms, counts, valid),
    }
    return make_batch(arrays, keys)


class IndexRows:
    """An index column's shard, opened; what is asked for row by row is read row by row."""

    def __init__(self, batch: pa.RecordBatch) -> None:
        """View the file's bytes."""
        self.valid = valid_rows(batch["sha256"])
        self._keys = Texts(batch["key"])
        self._offsets = numbers(batch["offset"], _INT64)
        self._sizes = numbers(batch["size"], _INT64)
        self._sha256 = numbers(batch["sha256"], _SHA256)

    @cached_property
    def keys(self) -> list[str]:
        """All keys."""
        return self.some_keys(np.arange(len(self.valid)))

    @cached_property
    def offsets(self) -> list[int]:
        """All offsets of image members; meaningless where a sample was skipped."""
        return self._offsets.tolist()

    @cached_property
    def sizes(self) -> list[int]:
        """Their sizes."""
        return self._sizes.tolist()

    @cached_property
    def sha256(self) -> list[bytes | None]:
        """All digests; None where a sample was skipped."""
        return [self.digest(row) if valid else None for row, valid in enumerate(self.valid)]

    def some_keys(self, rows: np.ndarray) -> list[str]:
        """Return the keys of some rows."""
        return self._keys.some(rows)

    def member(self, row: int) -> tuple[int, int]:
        """Return offset and size of the image member of a row that is not null."""
        return int(self._offsets[row]), int(self._sizes[row])

    def digest(self, row: int) -> bytes:
        """Return the image member's SHA-256 of a row that is not null."""
        return self._sha256[row].tobytes()


class CaptionRows:
    """A captions column's shard, opened."""

    def __init__(self, batch: pa.RecordBatch) -> None:
        """View the file's bytes."""
        lists = batch["captions"]
        self._offsets = numbers(lists.offsets, INT32)
        self._texts = Texts(lists.values)

    def counts(self, rows: np.ndarray) -> np.ndarray:
        """How many texts each of these rows has; none when it is null."""
        return self._offsets[rows + 1] - self._offsets[rows]

    def some(self, rows: np.ndarray, numbers: np.ndarray) -> list[str]:
        """Read one text of each of these rows."""
        return self._texts.some(self._offsets[rows] + numbers)


class ViewRows:
    """A views column's shard, opened."""

    def __init__(self, column: Column, batch: pa.RecordBatch) -> None:
        """Map operation codes to names.

        Raises:
            ValueError: this release lacks an operation, or the way the views were rendered.
        """
        self._names: list[str] = column.facts["operations"]
        unknown = sorted(set(self._names) - set(OPERATIONS))
        if unknown:
            raise ValueError(
                f"column {column.name} uses the operation {unknown[0]!r}, which this release lacks"
            )
        self._fill = int(column.identity["policy"]["fill"])
        self._version = column.identity["render_version"]
        check_render_version(self._version, f"column {column.name}")
        self.num_rows = batch.num_rows
        self.num_views = views = int(column.identity["num_views"])
        self.valid = valid_rows(batch["crops"])
        self._crops = _of_views(fixed_values(batch["crops"], _FLOAT32), views)
        self._operations = _of_views(fixed_values(batch["operations"], _UINT8), views)
        self._magnitudes = _of_views(fixed_values(batch["magnitudes"], _FLOAT32), views)
        self._identity = self._names.index("identity")

    def view(self, row: int, index: int) -> View:
        """Read one view."""
        return self.made(*(part[0] for part in self.numbers(np.array([row]), np.array([index]))))

    def numbers(
        self, rows: np.ndarray, indices: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Read one view of each of several rows: crops n x 4, operations and magnitudes n x N."""
        return (
            self._crops[rows, indices],
            self._operations[rows, indices],
            self._magnitudes[rows, indices],
        )

    def made(self, crop: np.ndarray, operations: np.ndarray, magnitudes: np.ndarray) -> View:
        """Make a view of its numbers."""
        ops = tuple(
            (self._names[code], size)
            for code, size in zip(operations.tolist(), magnitudes.tolist(), strict=True)
            if code != self._identity
        )
        return View(tuple(crop.tolist()), ops, self._fill, self._version)

    def views(self, row: int) -> list[View]:
        """Read all views of a sample; none for a null row."""
        if not self.valid[row]:
            return []
        return [self.view(row, index) for index in range(self.num_views)]


def _of_views(values: np.ndarray, num_views: int) -> np.ndarray:
    """View each sample's numbers as its views': n x KW to n x K x W, also where n is 0."""
    return values.reshape(len(values), num_views, values.shape[1] // num_views)


class ImageRows:
    """An image embeddings column's shard, opened; nothing is read until a row is asked for."""

    def __init__(self, column: Column, batch: pa.RecordBatch, num_views: int) -> None:
        """View the file's bytes as an array."""
        self.valid = valid_rows(batch["rows"])
        values = fixed_values(batch["rows"], stored_dtype(column.identity["codec"]))
        self._rows = _of_views(values, num_views)
        self._norms = fixed_values(batch["norms"], _FLOAT32)

    def encoded(self, row: int | np.ndarray, view: int | np.ndarray) -> np.ndarray:
        """Return one stored vector, a view of the file, or several; still encoded."""
        return self._rows[row, view]

    def all_encoded(self) -> np.ndarray:
        """Return all stored vectors, n x K x W; zero where a row is null."""
        return self._rows

    def norm(self, row: int, view: int) -> float:
        """Return the norm that the vector had."""
        return float(self._norms[row, view])


class TextRows:
    """A text embeddings column's shard, opened."""

    def __init__(self, column: Column, batch: pa.RecordBatch) -> None:
        """View the file's bytes as an array."""
        self.valid = valid_rows(batch["rows"])
        dtype = stored_dtype(column.identity["codec"])
        self._offsets, self._rows = ragged_values(batch["rows"], dtype)
        self._norms = numbers(batch["norms"].values, _FLOAT32)

    def count(self, row: int | np.integer) -> int:
        """Return how many vectors a row has."""
        return int(self._offsets[row + 1] - self._offsets[row])

    def encoded(self, row: int | np.ndarray, caption: int | np.ndarray) -> np.ndarray:
        """Return one stored vector, a view of the file, or several; still encoded."""
        return self._rows[self._offsets[row] + caption]

    def all_encoded(self) -> tuple[np.ndarray, np.ndarray]:
        """Return offsets (n + 1) and all stored vectors; row i has those between two offsets."""
        return self._offsets, self._rows

    def norm(self, row: int, caption: int) -> float:
        """Return the norm that the vector had."""
        return float(self._norms[self._offsets[row] + caption])
