"""Sampled rows of a store: pictures' sizes, captions, embeddings. No teacher is needed.

Units that an audit found damaged are left out, and so are those that are not there yet.
"""

from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np

from distill.health_page.data import Place
from reinforced_data.auditing.auditing import AuditReport
from reinforced_data.auditing.sources import read_pictures
from reinforced_data.codecs.of_columns import codec_of
from reinforced_data.store.column_rows import ImageRows, TextRows
from reinforced_data.store.columns import Column
from reinforced_data.store.layout import Store

# Shards are opened one by one; more would only make the page slower.
_MOST_SHARDS = 64


class StoreSample:
    """Rows of the index that are usable, drawn over the shards, in order.

    Attributes:
        places: shard and row of each.
        keys: its key.
        sizes: width, height and bytes of its picture, `(n, 3)`.
    """

    def __init__(
        self, store: Store, report: AuditReport, *, most: int, seed: int, step: Callable[[], None]
    ) -> None:
        """Draw them; `step` is called for every shard that is read."""
        self.store, self._step = store, step
        self._damaged = {unit for finding in report.findings for unit in finding.units}
        self.columns = store.columns()
        self.places: list[Place] = []
        self.keys: list[str] = []
        sizes = []
        index = self.index
        shards = [n for n in range(store.num_shards) if index and self.has(index, n)]
        random = np.random.default_rng(seed)
        if len(shards) > _MOST_SHARDS:
            shards = sorted(random.choice(shards, _MOST_SHARDS, replace=False).tolist())
        for shard in shards:
            assert index is not None
            step()
            batch = store.rows(index, shard)
            valid = np.flatnonzero(np.asarray(batch["sha256"].is_valid()))
            share = min(len(valid), -(-most // len(shards)))
            rows = np.sort(random.choice(valid, share, replace=False)) if share else valid
            self.places += [(shard, int(row)) for row in rows]
            picked = batch.take(rows.tolist())
            self.keys += picked["key"].to_pylist()
            columns = [picked[name].to_numpy() for name in ("width", "height", "size")]
            sizes.append(np.stack(columns, axis=1))
        self.sizes: np.ndarray = np.concatenate(sizes) if sizes else np.empty((0, 3), np.int64)

    @cached_property
    def index(self) -> Column | None:
        """The index column, where there is one."""
        return next((column for column in self.columns if column.kind == "index"), None)

    def has(self, column: Column, shard: int) -> bool:
        """Whether a unit is there and sound."""
        if (column.name, shard) in self._damaged:
            return False
        return self.store.commit(column, shard) is not None

    def _by_shard(self, columns: Sequence[Column]) -> list[tuple[int, list[int]]]:
        """Shard and numbers of the samples in it, where all of these columns can be read."""
        found: dict[int, list[int]] = {}
        for number, (shard, _) in enumerate(self.places):
            found.setdefault(shard, []).append(number)
        return [
            (shard, numbers)
            for shard, numbers in found.items()
            if all(self.has(column, shard) for column in columns)
        ]

    def captions(self, column: Column) -> list[list[str] | None]:
        """The texts of each sample."""
        found: list[list[str] | None] = [None] * len(self.places)
        for shard, numbers in self._by_shard([column]):
            self._step()
            rows = [self.places[number][1] for number in numbers]
            texts = self.store.rows(column, shard)["captions"].take(rows).to_pylist()
            for number, row in zip(numbers, texts, strict=True):
                found[number] = row
        return found

    def scores(self, column: Column) -> np.ndarray:
        """The score of each sample; NaN where there is none."""
        found = np.full(len(self.places), np.nan)
        for shard, numbers in self._by_shard([column]):
            self._step()
            rows = [self.places[number][1] for number in numbers]
            taken = self.store.rows(column, shard)["score"].take(rows)
            found[numbers] = taken.to_numpy(zero_copy_only=False)
        return found

    def image_rows(self, column: Column, views: Column) -> tuple[np.ndarray, np.ndarray]:
        """The mean of each sample's stored views as a unit row, and the norms `(n, K)`.

        NaN where there is none.
        """
        num_views, dim = int(views.identity["num_views"]), _width(column)
        codec = codec_of(self.store.storage, column)
        means = np.full((len(self.places), dim), np.nan, np.float32)
        norms = np.full((len(self.places), num_views), np.nan, np.float32)
        for shard, numbers in self._by_shard([column]):
            self._step()
            opened = ImageRows(column, self.store.rows(column, shard), num_views)
            for number in numbers:
                row = self.places[number][1]
                if opened.valid[row]:
                    encoded = opened.encoded(np.full(num_views, row), np.arange(num_views))
                    means[number] = codec.unit_rows(encoded, dim).mean(0)
                    norms[number] = [opened.norm(row, view) for view in range(num_views)]
        return means / np.linalg.norm(means, axis=1, keepdims=True), norms

    def text_rows(self, column: Column) -> np.ndarray:
        """The first caption's unit row of each sample; NaN where there is none."""
        dim = _width(column)
        codec = codec_of(self.store.storage, column)
        found = np.full((len(self.places), dim), np.nan, np.float32)
        for shard, numbers in self._by_shard([column]):
            self._step()
            opened = TextRows(column, self.store.rows(column, shard))
            for number in numbers:
                row = self.places[number][1]
                if opened.valid[row] and opened.count(row):
                    found[number] = codec.unit_rows(opened.encoded(np.array([row]), 0), dim)[0]
        return found

    def pictures(self, numbers: Sequence[int]) -> dict[int, bytes]:
        """The pictures of some samples, as far as the source has them unchanged."""
        if self.index is None:
            return {}
        chosen: dict[int, list[int]] = {}
        for shard, row in sorted(self.places[number] for number in set(numbers)):
            chosen.setdefault(shard, []).append(row)
        same = read_pictures(self.store, self.index, chosen, search=False).same
        return {n: same[self.places[n]] for n in set(numbers) if self.places[n] in same}


def _width(column: Column) -> int:
    return int(column.facts["teacher"]["embed_dim"])
