"""Batches: pictures, tokens and the teachers' rows of one step, read and checked."""

import contextlib
import hashlib
from collections import Counter, OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import Dataset

from reinforced_data.codecs.codec import Codec
from reinforced_data.pictures import Picture
from reinforced_data.reading.batch import Batch, Texts
from reinforced_data.reading.open_shard import OpenShard
from reinforced_data.reading.order import SampleOrder, caption_id, view_indices
from reinforced_data.reading.spare_arrays import SpareArrays
from reinforced_data.reading.step_rows import Reading, StepRows
from reinforced_data.source import UnreadableImage
from reinforced_data.views import View, render_view
from teachers import Embeddings, Preprocess

if TYPE_CHECKING:
    from reinforced_data.reading.reader import ReinforcedDataset

_MAX_CACHED_TEXTS = 1 << 17
# A window's first steps read pages that nobody has touched, which is dear enough: they look ahead
# only where few steps are left to do it.
_FIRST_STEPS, _FEW_STEPS = 8, 64


class BatchDataset(Dataset[Batch]):
    """Map-style: item `step` is the whole batch of that step (this rank's part of it)."""

    def __init__(self, dataset: "ReinforcedDataset", order: SampleOrder, reading: Reading) -> None:
        """Open nothing yet: a loader's workers open files for themselves."""
        self._dataset = dataset
        self._order = order
        self._reading = reading
        self._shards: OrderedDict[int, OpenShard] = OrderedDict()
        self._tokens: dict[str, tuple[np.ndarray, int]] = {}
        self._spare = SpareArrays()

    def __getstate__(self) -> dict[str, object]:
        """Leave open files and caches behind."""
        return {**self.__dict__, "_shards": OrderedDict(), "_tokens": {}, "_spare": SpareArrays()}

    def __getitem__(self, step: int) -> Batch:
        """Read the batch of a step."""
        read = self.rows(step)
        pixels, refused = self._pictures(read)
        kept = [slot for slot, reason in enumerate(refused) if reason is None]
        reasons = dict(Counter(reason for reason in refused if reason is not None))
        if not kept:
            raise ValueError(
                f"every sample of step {step} was refused ({reasons}): the images "
                f"in the source are not those that {self._dataset.path} was made from"
            )
        # Nearly always all are kept: then nothing is copied.
        rows = slice(None) if len(kept) == len(refused) else kept
        texts = zip(read.texts, self.embeddings(read, rows), strict=True)
        return Batch(
            keys=[read.keys[i] for i in kept],
            pixels=torch.from_numpy(pixels[rows]),
            texts=tuple(
                Texts(*self._tokenize([one.captions[i] for i in kept]), teachers)
                for one, teachers in texts
            ),
            refused=reasons,
            epoch=read.epoch,
            step=step,
            weights=None if read.weights is None else torch.from_numpy(read.weights[rows]),
            attention=torch.from_numpy(read.attention[rows]) if self._reading.attention else None,
            numbers=torch.from_numpy(self._order.numbers(read.shards, read.rows)[rows]),
        )

    def rows(self, step: int) -> StepRows:
        """Read what the columns hold of a step: everything but pixels."""
        reading = self._reading
        epoch, shards, rows = self._order.batch(step)
        first, last = (
            len(rows) * rank // reading.world_size for rank in (reading.rank, reading.rank + 1)
        )
        weights = self._weights(shards, rows)
        shards, rows = shards[first:last], rows[first:last]
        read = StepRows(epoch, shards, rows, reading, self._spare)
        read.weights = None if weights is None else weights[first:last]
        for shard in np.unique(shards).tolist():
            self._fill(read, self._shard(shard), np.flatnonzero(shards == shard))
        self._look_ahead(step)
        return read

    def _look_ahead(self, step: int) -> None:
        """Do a little for the next window, or its first batch would have to do all of it.

        A shard is opened a step, and when all are open the window is shuffled, a part a step.
        What cannot be opened is left to the step that needs it, if there will be one.
        """
        behind, before = self._order.around(step)
        if behind < _FIRST_STEPS and before > _FEW_STEPS:
            return
        window = self._order.coming(step)
        closed = [shard for shard in self._order.window(*window) if shard not in self._shards]
        if not closed:
            self._order.prepare(*window)
            return
        with contextlib.suppress(ValueError, OSError):
            # Each closes one of the last window's too, which costs as much. One a step, unless few
            # steps are left: half of those are for shuffling.
            for shard in closed[: -(-2 * len(closed) // max(before, 1))]:
                self._shard(shard)

    def embeddings(
        self, read: StepRows, rows: slice | list[int] = slice(None)
    ) -> list[tuple[Embeddings, ...]]:
        """Decode each teacher's rows of a step, or of some of its samples, text by text."""
        teachers = self._reading.teachers
        images = [
            self._unit_rows(teacher.image_codec, encoded[rows], teacher.embed_dim)
            for teacher, encoded in zip(teachers, read.images, strict=True)
        ]
        return [
            tuple(
                Embeddings(
                    image,
                    self._unit_rows(teacher.text_codec, encoded[rows], teacher.embed_dim),
                    # Nobody compares the rows of a teacher of one modality with each other.
                    torch.tensor(1.0 if teacher.logit_scale is None else teacher.logit_scale),
                    None if teacher.logit_bias is None else torch.tensor(teacher.logit_bias),
                )
                for teacher, image, encoded in zip(teachers, images, texts.rows, strict=True)
            )
            for texts in read.texts
        ]

    def _unit_rows(
        self, codec: Codec | None, values: np.ndarray, embed_dim: int
    ) -> Float[Tensor, "b d"]:
        if codec is None:
            return torch.from_numpy(values)
        into = None if codec.exact else self._spare.take((len(values), embed_dim), np.float32)
        return torch.from_numpy(codec.unit_rows(values, embed_dim, into))

    def _weights(self, shards: np.ndarray, rows: np.ndarray) -> np.ndarray | None:
        """Weigh the samples of the whole step: every rank does, so that none has to be asked."""
        if self._reading.scores is None:
            return None
        scores = np.empty(len(rows), np.float32)
        for shard in np.unique(shards).tolist():
            slots = np.flatnonzero(shards == shard)
            found = self._shard(shard).scores
            assert found is not None
            scores[slots] = found[rows[slots]]
        return self._reading.score_weights.of(scores).astype(np.float32)

    def _fill(self, read: StepRows, shard: OpenShard, slots: np.ndarray) -> None:
        seed, num_views, epoch = self._reading.seed, self._reading.num_views, read.epoch
        rows = read.rows[slots]
        keys = shard.index.some_keys(rows)
        chosen = view_indices(seed, epoch, keys, num_views)
        for slot, key in zip(slots.tolist(), keys, strict=True):
            read.keys[slot] = key
        for texts in read.texts:
            texts.fill(shard, slots, rows, keys, seed=seed, epoch=epoch)
        parts = shard.views.numbers(rows, chosen)
        for part, values in zip((read.crops, read.operations, read.magnitudes), parts, strict=True):
            part[slots] = values
        for encoded, (image_rows, _) in zip(read.images, shard.embeddings, strict=True):
            if image_rows is not None:
                encoded[slots] = image_rows.encoded(rows, chosen)
        if shard.attention is not None:
            read.attention[slots] = shard.attention.some(rows, chosen)

    def _pictures(self, read: StepRows) -> tuple[np.ndarray, list[str | None]]:
        """Render the views, shard by shard, and say which samples are refused."""
        look = self._reading.preprocess
        side = 0 if look is None else look.image_size
        pixels = np.empty((len(read.rows), side, side, 3), np.uint8)
        refused: list[str | None] = [None] * len(read.rows)
        if look is None:
            return pixels, refused
        for slot in np.argsort(read.shards, kind="stable").tolist():
            shard = self._shard(int(read.shards[slot]))
            view = shard.views.made(*read.view_numbers(slot))
            refused[slot] = self._draw(shard, int(read.rows[slot]), view, look, pixels[slot])
        return pixels, refused

    def _draw(
        self, shard: OpenShard, row: int, view: View, preprocess: Preprocess, pixels: np.ndarray
    ) -> str | None:
        """Render a view into `pixels`, or say why the sample is refused."""
        data = shard.image(row)
        if hashlib.sha256(data).digest() != shard.index.digest(row):
            return "image-changed"
        try:
            picture = Picture(data, known_good=True)
            if self._reading.whole_image:
                pixels[...] = preprocess.whole_view(picture.image())
            else:
                pixels[...] = render_view(picture, view, preprocess)
        except UnreadableImage as error:
            return error.reason
        return None

    def _tokenize(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        known, tokenizer = self._tokens, self._reading.tokenizer
        new = [text for text in dict.fromkeys(texts) if text not in known]
        if new:
            if len(known) + len(new) > _MAX_CACHED_TEXTS:
                known.clear()
                new = list(dict.fromkeys(texts))
            rows = (
                np.empty((len(new), 0), np.int64) if tokenizer is None else tokenizer(new).numpy()
            )
            for text, row in zip(new, rows, strict=True):
                known[text] = (row, caption_id(text))
        tokens = np.stack([known[text][0] for text in texts])
        ids = np.array([known[text][1] for text in texts], dtype=np.int64)
        return torch.from_numpy(tokens), torch.from_numpy(ids)

    def _shard(self, shard: int) -> OpenShard:
        opened = self._shards.get(shard)
        if opened is None:
            reading = self._reading
            opened = self._dataset.open_shard(
                shard,
                reading.teachers,
                reading.captions.sets,
                scores=reading.scores,
                attention=reading.attention,
            )
            self._shards[shard] = opened
            # Two windows' worth: a batch on a border reads from both.
            while len(self._shards) > 2 * self._order.window_shards + 1:
                self._shards.popitem(last=False)[1].close()
        self._shards.move_to_end(shard)
        return opened
