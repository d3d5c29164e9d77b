"""One shard of a store opened for training: mapped columns and the source tar."""

import os
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
import pyarrow as pa
from fsspec.implementations.local import LocalFileSystem
from jaxtyping import Float32, Int64

from reinforced_data.attention import AttentionRows
from reinforced_data.locations import locate
from reinforced_data.reading.shard_cache import ShardCache
from reinforced_data.store.arrow_rows import numbers, stamped_keys
from reinforced_data.store.column_rows import CaptionRows, ImageRows, IndexRows, TextRows, ViewRows
from reinforced_data.store.columns import Column
from reinforced_data.store.commits import Commit
from reinforced_data.store.layout import Store


class OpenShard:
    """The rows of a shard in all columns that a run reads.

    Attributes:
        index: where the images are.
        views: the view set.
        captions: the texts of each row, set by set.
        embeddings: (image rows, text rows set by set) per teacher; None and [] for what it lacks.
        scores: of each row, float32, where a run weighs by them.
        attention: a teacher's ranks of the views' patches, where they are asked for.
    """

    def __init__(
        self,
        store: Store,
        shard: int,
        *,
        index: Column,
        views: Column,
        captions: Sequence[Column],
        teachers: Sequence[tuple[Column | None, Sequence[Column]]],
        scores: Column | None = None,
        commits: Mapping[str, Commit] = MappingProxyType({}),
        attention: Column | None = None,
    ) -> None:
        """Map the files and check that they belong together.

        Records in `commits`, by column, were read before and are not read again.

        Raises:
            ValueError: a column was written for other samples, or a file is not usable.
        """
        self._store, self._shard, self._keys = store, shard, ""
        self._commits = commits
        self.index = IndexRows(self._rows(index))
        self.views = ViewRows(views, self._rows(views))
        self.captions = [CaptionRows(self._rows(one)) for one in captions]
        self.embeddings = [
            (
                None if image is None else self._image_rows(image),
                [TextRows(text, self._rows(text)) for text in texts],
            )
            for image, texts in teachers
        ]
        self.scores: Float32[np.ndarray, " n"] | None = None
        if scores is not None:
            self.scores = numbers(self._rows(scores)["score"], np.dtype("<f4"))
        self.attention = attention and AttentionRows(attention, self._rows(attention))
        cache = store.storage.cache
        self._source = _Source(store.sources[shard], store.source_bytes[shard], cache)

    def _image_rows(self, column: Column) -> ImageRows:
        return ImageRows(column, self._rows(column), self.views.num_views)

    def _rows(self, column: Column) -> pa.RecordBatch:
        commit = self._commits.get(column.name)
        batch = (
            self._store.rows(column, self._shard)
            if commit is None
            else self._store.committed_rows(commit)
        )
        keys = stamped_keys(batch)
        if self._keys and keys != self._keys:
            raise ValueError(
                f"{self._store.name}: column {column.name} was written for other samples of shard "
                f"{self._shard} than the index. Remove the column and reinforce again"
            )
        self._keys = keys
        return batch

    def caption_counts(self, rows: np.ndarray) -> Int64[np.ndarray, "sets n"]:
        """How many captions of each set these rows can use: those that every teacher has read."""
        counts = np.stack([captions.counts(rows) for captions in self.captions]).astype(np.int64)
        for _, text_rows in self.embeddings:
            for place, one in enumerate(text_rows):
                counts[place] *= one.valid[rows]
        return counts

    def image(self, row: int) -> bytes:
        """Read the encoded image of a row from the source; the caller checks its hash."""
        return self._source.read(*self.index.member(row))

    def close(self) -> None:
        """Close the tar; the maps go with the object."""
        self._source.close()


class _Source:
    """A source shard, read at given offsets; opened when it is first read."""

    def __init__(self, path: str, size: int, cache: ShardCache | None) -> None:
        self._shard, self._size, self._cache = path, size, cache
        self._file = -1
        self._opened = False

    def _open(self) -> None:
        self._opened = True
        self._fs, self._path = locate(self._shard)
        local = isinstance(self._fs, LocalFileSystem)
        if not local and self._cache is not None:
            self._path, local = str(self._cache.fetch(self._fs, self._path, self._size)), True
        if local:
            try:
                self._file = os.open(self._path, os.O_RDONLY)
            except OSError as error:
                raise ValueError(
                    f"source shard {self._shard} cannot be opened ({error.strerror}); a store "
                    "holds no images, so its source must stay where it was, or move along with "
                    "the store"
                ) from error

    def read(self, offset: int, size: int) -> bytes:
        if not self._opened:
            self._open()
        if self._file >= 0:
            # No file position: forked workers share it.
            return os.pread(self._file, size, offset)
        return self._fs.cat_file(self._path, start=offset, end=offset + size)

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __del__(self) -> None:
        self.close()
