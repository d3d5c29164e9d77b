"""The work of one call of `caption`, shard by shard: ask the captioner, filter, write, embed.

Requests go out in batches with fixed boundaries, and each carries a seed of its own, so that a
shard done again is an equal shard as far as the captioner's arithmetic is.
"""

import contextlib
import hashlib
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from itertools import islice

import pyarrow as pa
from PIL import Image

from reinforced_data.captions.filters import choose_texts
from reinforced_data.captions.plan import CaptionPlan, caption_seed
from reinforced_data.codecs.of_columns import codec_of
from reinforced_data.embedded_texts import captions_unit, check_first_rows, embed_captions
from reinforced_data.preparing import in_threads
from reinforced_data.shard_work import Counts
from reinforced_data.source import Sample, decode_image, scan_shard
from reinforced_data.store.column_rows import IndexRows, captions_batch
from reinforced_data.store.columns import Column
from reinforced_data.store.commits import Skipped
from reinforced_data.store.layout import Store
from teachers import CaptionRequest, ClipModel
from teachers.captioners.retries import retries_of

Texts = list[tuple[str, ...] | None]

# Of fewer samples, all may be without captions by bad luck.
_ENOUGH_TO_JUDGE = 4


class CaptionWork:
    """A store, the columns that are asked for, and how to write a shard of them (a `ShardWork`).

    Attributes:
        store, plan: where to, and what.
    """

    def __init__(self, store: Store, plan: CaptionPlan) -> None:
        """Count from nothing."""
        self.store, self.plan = store, plan
        self._batch_size = plan.settings.batch_size
        self._between_batches: Callable[[], None] = lambda: None
        self._on_sample: Callable[[int], None] = lambda size: None
        self._written = 0
        self._dropped = Counter[str]()
        self._retries = retries_of(plan.captioner)
        self._taken = self._counts()

    @property
    def columns(self) -> tuple[Column, ...]:
        """What is written."""
        return self.plan.columns

    @property
    def needs(self) -> tuple[Column, ...]:
        """What a shard has to have before."""
        return self.plan.needs

    def warn_by(self, tell: Callable[[str], None]) -> None:
        """Have it told when a captioner's server is asked again."""
        for retries in self._retries:
            retries.tell = tell

    def take_counts(self) -> Counts:
        """Return what was counted since this was asked last.

        By kind and reason: the captions `written`, the texts `dropped` by the filters, the
        requests that had to be sent again (`retries`).
        """
        counts = self._counts()
        new, self._taken = counts - self._taken, counts
        return new

    def _counts(self) -> Counts:
        found = Counter({("written", ""): self._written})
        for reason, count in self._dropped.items():
            found["dropped", reason] = count
        for retries in self._retries:
            for reason, count in retries.counts.items():
                found["retries", reason] += count
        return found

    def shard(
        self,
        shard: int,
        between_batches: Callable[[], None],
        on_sample: Callable[[int], None],
    ) -> bool:
        """Write the units of a shard that are missing; False when another process was at it too.

        Args:
            shard: which.
            between_batches: called where the work may stop, which it does when this raises.
            on_sample: called with the bytes of the image of each sample that was asked about.

        Raises:
            BrokenShard: the source shard is truncated or not a tar.
            ValueError: the source shard has changed, or the captioner gives nothing usable at all.
        """
        self._on_sample = on_sample
        self._between_batches = between_batches
        plan, store = self.plan, self.store
        missing = {c.name for c in plan.columns if store.commit(c, shard) is None}
        if not missing:
            return False
        index = IndexRows(store.rows(plan.index, shard))
        alone = True
        if plan.captions.name in missing:
            alone = self._write_captions(shard, index)
        captions = _texts(store, plan.captions, shard)
        for teacher, column in plan.texts:
            if column.name in missing:
                alone &= self._write_texts(shard, index, captions, teacher, column)
        return alone

    def _write_captions(self, shard: int, index: IndexRows) -> bool:
        originals = _texts(self.store, self.plan.originals, shard)
        answers, empty = self._ask(shard, index, originals)
        kept: list[list[str]] = []
        dropped = Counter[str]()
        for texts, known in zip(answers, originals, strict=True):
            kept.append(choose_texts(texts, known or (), self.plan.settings.bounds, dropped))
        if self.plan.scorer is not None:
            kept = self.plan.scorer.drop_low(self.store, shard, kept, self._batch_size, dropped)
        self._check_first(shard, index, kept, dropped)
        reasons = [
            None if texts or not valid else "no-caption" if none else "all-captions-dropped"
            for texts, valid, none in zip(kept, index.valid, empty, strict=True)
        ]
        rows = captions_batch([tuple(texts) or None for texts in kept], index.keys)
        alone = self._commit(self.plan.captions, shard, rows, reasons, index)
        if alone:  # another's were committed first, and it counts them
            self._written += sum(map(len, kept))
            self._dropped += dropped
        return alone

    def _ask(
        self, shard: int, index: IndexRows, originals: Texts
    ) -> tuple[list[list[str]], list[bool]]:
        """Return the captioner's texts for each row, and whether it had none to say."""
        captioner, limit = self.plan.captioner, self.plan.settings.num_captions
        assert captioner is not None
        answers: list[list[str]] = [[] for _ in index.keys]
        with contextlib.closing(self._requests(shard, index, originals)) as asked:
            while batch := list(islice(asked, self._batch_size)):
                self._between_batches()
                found = captioner.caption([request for _, request in batch], limit)
                if len(found) != len(batch):
                    raise ValueError(
                        f"captioner {captioner.name!r} answered {len(found)} of {len(batch)} "
                        f"requests ({batch[0][1].key!r} ... {batch[-1][1].key!r} of "
                        f"{self.store.sources[shard]}): caption() returns one list per request"
                    )
                for (row, _), texts in zip(batch, found, strict=True):
                    answers[row] = list(texts)[:limit]
                    self._on_sample(index.sizes[row])
        return answers, [not texts for texts in answers]

    def _requests(
        self, shard: int, index: IndexRows, originals: Texts
    ) -> Generator[tuple[int, CaptionRequest], None, None]:
        """Yield row and request of each usable sample, in order; pictures only where needed."""
        assert self.plan.captioner is not None
        seen = None if self.plan.seen is None else _texts(self.store, self.plan.seen, shard)
        images = self._images(shard, index) if self.plan.captioner.needs_image else None
        for row, key in enumerate(index.keys):
            image = next(images) if images is not None else None
            if index.valid[row]:
                yield (
                    row,
                    CaptionRequest(
                        key=key,
                        image=image,
                        texts=originals[row] or (),
                        seed=caption_seed(self.plan.settings.seed, key),
                        seen=() if seen is None else seen[row] or (),
                    ),
                )
        # The end of the shard is looked at too: it may have grown.
        if images is not None:
            next(images, None)

    def _images(self, shard: int, index: IndexRows) -> Generator[Image.Image | None, None, None]:
        """Yield the picture of each row, None for a skipped one; checked against the index."""
        path = self.store.sources[shard]

        def read(row: int, sample: Sample) -> Image.Image | None:
            if row >= len(index.keys) or sample.key != index.keys[row]:
                raise self._changed(path, f"sample {row} is {sample.key!r}")
            if not index.valid[row]:
                return None
            if hashlib.sha256(sample.image).digest() != index.sha256[row]:
                raise self._changed(path, f"the image of {sample.key!r} is another")
            return decode_image(sample.image)

        captions_from, count = self.plan.originals.identity["captions_from"], 0
        with contextlib.closing(
            in_threads(read, scan_shard(path, captions_from=captions_from), self._batch_size)
        ) as images:
            for image in images:
                yield image
                count += 1
        if count < len(index.keys):
            raise self._changed(path, f"it has {count} samples, not {len(index.keys)}")

    def _changed(self, path: str, what: str) -> ValueError:
        return ValueError(
            f"source shard {path} has changed since {self.store.name} was written: {what}. "
            "Restore the shard, or make a new store"
        )

    def _check_first(
        self, shard: int, index: IndexRows, kept: Sequence[list[str]], dropped: Counter[str]
    ) -> None:
        """A captioner that fails from the start must not empty the whole set, row by row."""
        usable = int(index.valid.sum())
        if usable < _ENOUGH_TO_JUDGE or any(kept) or self.store.done(self.plan.captions):
            return
        said = ", ".join(f"{n} {reason}" for reason, n in dropped.items() if n)
        raise ValueError(
            f"caption set {self.plan.captions.identity['set']!r} got no caption for any of the "
            f"{usable} samples of its first shard, {self.store.sources[shard]} (dropped: "
            f"{said or 'nothing, the captioner was silent'}). Nothing was written of it. Look "
            "at the captioner's model and prompt, min_words, max_words and min_score"
        )

    def _write_texts(
        self, shard: int, index: IndexRows, captions: Texts, teacher: ClipModel, column: Column
    ) -> bool:
        places, embedded = embed_captions(
            teacher, captions, self._batch_size, self._between_batches
        )
        check_first_rows(self.store, column, shard, embedded)
        codec = codec_of(self.store.storage, column)
        rows, reasons = captions_unit(codec, captions, places, embedded, index.keys)
        return self._commit(column, shard, rows, reasons, index)

    def _commit(
        self,
        column: Column,
        shard: int,
        rows: pa.RecordBatch,
        reasons: Sequence[str | None],
        index: IndexRows,
    ) -> bool:
        skipped = [
            Skipped(row=row, key=index.keys[row], reason=reason)
            for row, reason in enumerate(reasons)
            if reason is not None
        ]
        return self.store.write(column, shard, rows, skipped) is not None


def _texts(store: Store, column: Column, shard: int) -> Texts:
    rows = store.rows(column, shard)["captions"].to_pylist()
    return [None if texts is None else tuple(texts) for texts in rows]
