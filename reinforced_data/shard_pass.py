"""One pass over one source shard: each picture decoded once, for all columns that are missing."""

import contextlib
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from reinforced_data.attention import attention_batch
from reinforced_data.codecs.of_columns import codec_of
from reinforced_data.embedded_texts import captions_unit, check_first_rows, embed_captions
from reinforced_data.embedding import ImageEmbedder, Rows
from reinforced_data.imported_views import check_there
from reinforced_data.plan import Plan, TeacherColumns
from reinforced_data.preparing import Prepared, Preparer, in_threads
from reinforced_data.source import scan_shard
from reinforced_data.store.column_rows import (
    IndexRow,
    IndexRows,
    ViewRows,
    captions_batch,
    image_batch,
    index_batch,
    views_batch,
)
from reinforced_data.store.columns import Column
from reinforced_data.store.commits import Skipped
from reinforced_data.store.layout import Store
from reinforced_data.views import View
from teachers import ClipModel


def reinforce_shard(
    store: Store,
    plan: Plan,
    shard: int,
    *,
    batch_size: int,
    on_sample: Callable[[int], None],
    between_batches: Callable[[], None],
) -> bool:
    """Write the units of a shard that are missing; False when another process was at it too.

    Args:
        store: where to.
        plan: the columns.
        shard: which source shard.
        batch_size: views, or texts, per call of a teacher.
        on_sample: called with the bytes of each sample's image, for progress.
        between_batches: called where the work may stop, which it does when this raises.

    Raises:
        BrokenShard: the shard is truncated or not a tar, or its imported views are not there.
        ValueError: the shard is not what the committed columns were made from, or a teacher gives
            nothing usable at all.
    """
    missing = {c.name for c in plan.columns if store.commit(c, shard) is None}
    if not missing:
        return False
    check_there(store, plan.views, shard)
    unit = _ShardRows(store, plan, shard, missing)
    if missing <= {entry.text.name for entry in plan.teachers if entry.text is not None}:
        unit.read_texts()
        embedders = {}
    else:
        embedders = _embed_pictures(unit, batch_size, on_sample, between_batches)
        unit.write_source_columns()
    for entry in plan.teachers:
        if entry.image is not None and entry.image.name in embedders:
            unit.write_pictures(entry, entry.image, embedders[entry.image.name])
        if entry.text is not None and entry.text.name in missing:
            unit.write_text(entry.teacher, entry.text, batch_size, between_batches)
    return unit.alone


def _embed_pictures(
    unit: "_ShardRows",
    batch_size: int,
    on_sample: Callable[[int], None],
    between_batches: Callable[[], None],
) -> dict[str, ImageEmbedder]:
    """Read the shard once: rows gathered in `unit`, views with every teacher that lacks them."""
    store, plan, shard, missing = unit.store, unit.plan, unit.shard, unit.missing
    views_done = plan.views.name not in missing
    stored = ViewRows(plan.views, store.rows(plan.views, shard)) if views_done else None
    embedders = {
        entry.image.name: ImageEmbedder(entry.teacher, batch_size, attention=asked)
        for entry in plan.teachers
        for asked in [entry.attention is not None and entry.attention.name in missing]
        if entry.image is not None and (entry.image.name in missing or asked)
    }
    looks = {embedder.teacher.preprocess for embedder in embedders.values()}
    samples = scan_shard(store.sources[shard], captions_from=plan.captions_from)
    # A batch is decoded while the teachers are at the one before it.
    ahead = math.ceil(batch_size / plan.num_views)
    preparing = in_threads(Preparer(plan, stored, looks), samples, ahead)
    with contextlib.closing(preparing) as ready:
        for prepared in ready:
            unit.add(prepared)
            for pixels in prepared.pixels:
                for embedder in embedders.values():
                    embedder.add(pixels[embedder.teacher.preprocess])
            on_sample(prepared.row.size or 0)
            between_batches()
    return embedders


@dataclass
class _ShardRows:
    """What a pass has gathered, one entry per sample, and how it becomes columns."""

    store: Store
    plan: Plan
    shard: int
    missing: set[str]
    index: list[IndexRow] = field(default_factory=list)
    captions: list[tuple[str, ...] | None] = field(default_factory=list)
    views: list[tuple[View, ...]] = field(default_factory=list)
    problems: list[str | None] = field(default_factory=list)
    alone: bool = True

    def add(self, prepared: Prepared) -> None:
        self.index.append(prepared.row)
        self.captions.append(prepared.captions or None)
        self.views.append(prepared.views)
        self.problems.append(prepared.problem)

    def read_texts(self) -> None:
        """Take keys and captions from the store: texts alone need neither source nor pictures."""
        store, plan = self.store, self.plan
        keys = IndexRows(store.rows(plan.index, self.shard)).keys
        self.index = [IndexRow(key=key) for key in keys]
        texts = store.rows(plan.captions, self.shard)["captions"].to_pylist()
        self.captions = [None if row is None else tuple(row) for row in texts]

    @property
    def keys(self) -> list[str]:
        return [row.key for row in self.index]

    def write_source_columns(self) -> None:
        plan = self.plan
        if plan.index.name in self.missing:
            self._write(plan.index, index_batch(self.index), self.problems)
        else:
            self._check_index(IndexRows(self.store.rows(plan.index, self.shard)))
        captions = captions_batch(self.captions, self.keys)
        if plan.captions.name in self.missing:
            reasons = [
                "no-caption" if texts is None and problem is None else None
                for texts, problem in zip(self.captions, self.problems, strict=True)
            ]
            self._write(plan.captions, captions, reasons)
        elif not captions.equals(self.store.rows(plan.captions, self.shard)):
            raise self._changed("its captions are")
        if plan.views.name in self.missing:
            self._write(plan.views, views_batch(plan.views, self.views, self.keys), [])

    def write_pictures(
        self, entry: TeacherColumns, column: Column, embedder: ImageEmbedder
    ) -> None:
        """Write what a teacher says of the pictures: rows, attention, or what is missing of it."""
        rows = embedder.finish()
        valid = np.array([bool(views) for views in self.views], dtype=bool)
        num_views = self.plan.num_views
        # One bad view makes the sample useless: which view training reads is not known here.
        found = iter(rows.problems())
        reasons = [
            next(filter(None, [next(found) for _ in range(num_views)]), None) if used else None
            for used in valid
        ]
        kept = np.array([reason is None for reason in reasons], dtype=bool) & valid
        good = np.repeat(kept[valid], num_views)
        if column.name in self.missing:
            check_first_rows(self.store, column, self.shard, rows)
            rows = Rows(rows.unit[good], rows.norms[good])
            codec = codec_of(self.store.storage, column)
            self._write(column, image_batch(codec, rows, num_views, kept, self.keys), reasons)
        if entry.attention is not None and entry.attention.name in self.missing:
            maps = embedder.finish_attention()[good]
            batch = attention_batch(entry.attention, maps, kept, self.keys)
            self._write(entry.attention, batch, reasons)

    def write_text(
        self,
        teacher: ClipModel,
        column: Column,
        batch_size: int,
        between_batches: Callable[[], None],
    ) -> None:
        places, embedded = embed_captions(teacher, self.captions, batch_size, between_batches)
        check_first_rows(self.store, column, self.shard, embedded)
        codec = codec_of(self.store.storage, column)
        self._write(column, *captions_unit(codec, self.captions, places, embedded, self.keys))

    def _write(self, column: Column, batch: pa.RecordBatch, reasons: list[str | None]) -> None:
        skipped = [
            Skipped(row=row, key=self.index[row].key, reason=reason)
            for row, reason in enumerate(reasons)
            if reason is not None
        ]
        if self.store.write(column, self.shard, batch, skipped) is None:
            self.alone = False

    def _check_index(self, stored: IndexRows) -> None:
        if stored.keys != self.keys:
            raise self._changed("its keys are")
        for row, digest in zip(self.index, stored.sha256, strict=True):
            if row.sha256 != digest:
                raise self._changed(f"the image of {row.key!r} is")

    def _changed(self, what: str) -> ValueError:
        return ValueError(
            f"source shard {self.store.sources[self.shard]} has changed since {self.store.name} "
            f"was written: {what} not the same. Restore the shard, or make a new store"
        )
