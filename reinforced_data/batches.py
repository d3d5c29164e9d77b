"""Batches: pictures, tokens and the teachers' rows of one step, read and checked."""

import hashlib
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor
from torch.utils.data import Dataset

from reinforced_data.codecs import Codec
from reinforced_data.open_shard import OpenShard
from reinforced_data.order import SampleOrder, caption_id, caption_index, view_indices
from reinforced_data.source import UnreadableImage, decode_image
from reinforced_data.views import View, render_view
from teachers import Embeddings, Preprocess, Tokenizer

if TYPE_CHECKING:
    from reinforced_data.reader import ReinforcedDataset, StoredTeacher

_MAX_CACHED_TEXTS = 1 << 17


@dataclass(frozen=True)
class Batch:
    """One step's samples, or this rank's part of them.

    Attributes:
        keys: of the samples.
        pixels: the view of each, at the student's own size.
        tokens: the caption of each.
        caption_ids: equal captions, equal ids, on every rank.
        teachers: for each teacher the rows of exactly these views and captions.
        refused: reason -> how many samples were dropped from this batch.
        epoch: passes over all samples before this one.
        step: the step this batch belongs to.
    """

    keys: list[str]
    pixels: UInt8[Tensor, "b h w 3"]
    tokens: Int64[Tensor, "b context"]
    caption_ids: Int64[Tensor, " b"]
    teachers: tuple[Embeddings, ...]
    refused: dict[str, int]
    epoch: int
    step: int

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Batch":
        """Copy the tensors to a device."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> "Batch":
        """Copy the tensors to pinned memory; a DataLoader calls this."""
        return self._map(lambda tensor: tensor.pin_memory())

    def _map(self, function: Callable[[Tensor], Tensor]) -> "Batch":
        teachers = tuple(
            Embeddings(
                function(rows.image),
                function(rows.text),
                function(rows.logit_scale),
                None if rows.logit_bias is None else function(rows.logit_bias),
            )
            for rows in self.teachers
        )
        return replace(
            self,
            pixels=function(self.pixels),
            tokens=function(self.tokens),
            caption_ids=function(self.caption_ids),
            teachers=teachers,
        )


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How a student wants its batches; see `ReinforcedDataset.loader`."""

    preprocess: Preprocess
    tokenizer: Tokenizer
    teachers: tuple["StoredTeacher", ...]
    num_views: int
    num_ops: int
    seed: int
    rank: int
    world_size: int
    whole_image: bool


class StepRows:
    """What the columns hold of a step's samples; entry i belongs to sample i of the order.

    Attributes:
        epoch: passes over all samples before this one.
        shards, rows: where each sample is, int64.
        keys, captions: of each; of several captions the one chosen for this epoch.
        crops, operations, magnitudes: the view chosen for this epoch; see `ViewRows.numbers`.
        images, texts: per teacher the rows of these views and captions, still encoded.
    """

    def __init__(self, epoch: int, shards: np.ndarray, rows: np.ndarray, reading: Reading) -> None:
        """Make room."""
        size, teachers = len(rows), reading.teachers
        self.epoch, self.shards, self.rows = epoch, shards, rows
        self.keys, self.captions = [""] * size, [""] * size
        self.crops = np.empty((size, 4), np.float32)
        self.operations = np.empty((size, reading.num_ops), np.uint8)
        self.magnitudes = np.empty((size, reading.num_ops), np.float32)
        self.images = [_empty_rows(one.image_codec, size, one.embed_dim) for one in teachers]
        self.texts = [_empty_rows(one.text_codec, size, one.embed_dim) for one in teachers]

    def view_numbers(self, slot: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the view of one sample, as `ViewRows.made` takes it."""
        return self.crops[slot], self.operations[slot], self.magnitudes[slot]


def _empty_rows(codec: Codec, size: int, embed_dim: int) -> np.ndarray:
    return np.empty((size, codec.width(embed_dim)), codec.dtype)


class BatchDataset(Dataset[Batch]):
    """Map-style: item `step` is the whole batch of that step (this rank's part of it)."""

    def __init__(self, dataset: "ReinforcedDataset", order: SampleOrder, reading: Reading) -> None:
        """Open nothing yet: a loader's workers open files for themselves."""
        self._dataset = dataset
        self._order = order
        self._reading = reading
        self._shards: OrderedDict[int, OpenShard] = OrderedDict()
        self._tokens: dict[str, tuple[np.ndarray, int]] = {}

    def __getstate__(self) -> dict[str, object]:
        """Leave open files and caches behind."""
        return {**self.__dict__, "_shards": OrderedDict(), "_tokens": {}}

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
        tokens, ids = self._tokenize([read.captions[i] for i in kept])
        return Batch(
            keys=[read.keys[i] for i in kept],
            pixels=torch.from_numpy(pixels[rows]),
            tokens=tokens,
            caption_ids=ids,
            teachers=self.embeddings(read, rows),
            refused=reasons,
            epoch=read.epoch,
            step=step,
        )

    def rows(self, step: int) -> StepRows:
        """Read what the columns hold of a step: everything but pixels."""
        reading = self._reading
        epoch, shards, rows = self._order.batch(step)
        first, last = (
            len(rows) * rank // reading.world_size for rank in (reading.rank, reading.rank + 1)
        )
        shards, rows = shards[first:last], rows[first:last]
        read = StepRows(epoch, shards, rows, reading)
        for shard in np.unique(shards).tolist():
            self._fill(read, self._shard(shard), np.flatnonzero(shards == shard))
        return read

    def embeddings(
        self, read: StepRows, rows: slice | list[int] = slice(None)
    ) -> tuple[Embeddings, ...]:
        """Decode each teacher's rows of a step, or of some of its samples."""
        return tuple(
            Embeddings(
                _unit_rows(teacher.image_codec, images[rows], teacher.embed_dim),
                _unit_rows(teacher.text_codec, texts[rows], teacher.embed_dim),
                torch.tensor(teacher.logit_scale),
                None if teacher.logit_bias is None else torch.tensor(teacher.logit_bias),
            )
            for teacher, images, texts in zip(
                self._reading.teachers, read.images, read.texts, strict=True
            )
        )

    def _fill(self, read: StepRows, shard: OpenShard, slots: np.ndarray) -> None:
        seed, num_views, epoch = self._reading.seed, self._reading.num_views, read.epoch
        rows = read.rows[slots]
        keys = shard.index.some_keys(rows)
        chosen = view_indices(seed, epoch, keys, num_views)
        counts = shard.captions.counts(rows)
        numbers = np.zeros(len(rows), np.int64)
        for i in np.flatnonzero(counts > 1).tolist():
            numbers[i] = caption_index(seed, epoch, keys[i], int(counts[i]))
        captions = shard.captions.some(rows, numbers)
        for slot, key, caption in zip(slots.tolist(), keys, captions, strict=True):
            read.keys[slot], read.captions[slot] = key, caption
        parts = shard.views.numbers(rows, chosen)
        for part, values in zip((read.crops, read.operations, read.magnitudes), parts, strict=True):
            part[slots] = values
        for number, (image_rows, text_rows) in enumerate(shard.embeddings):
            read.images[number][slots] = image_rows.encoded(rows, chosen)
            read.texts[number][slots] = text_rows.encoded(rows, numbers)

    def _pictures(self, read: StepRows) -> tuple[np.ndarray, list[str | None]]:
        """Render the views, shard by shard, and say which samples are refused."""
        side = self._reading.preprocess.image_size
        pixels = np.empty((len(read.rows), side, side, 3), np.uint8)
        refused: list[str | None] = [None] * len(read.rows)
        for slot in np.argsort(read.shards, kind="stable").tolist():
            shard = self._shard(int(read.shards[slot]))
            view = shard.views.made(*read.view_numbers(slot))
            refused[slot] = self._draw(shard, int(read.rows[slot]), view, pixels[slot])
        return pixels, refused

    def _draw(self, shard: OpenShard, row: int, view: View, pixels: np.ndarray) -> str | None:
        """Render a view into `pixels`, or say why the sample is refused."""
        data = shard.image(row)
        if hashlib.sha256(data).digest() != shard.index.digest(row):
            return "image-changed"
        try:
            image = decode_image(data)
        except UnreadableImage as error:
            return error.reason
        preprocess = self._reading.preprocess
        if self._reading.whole_image:
            pixels[...] = preprocess.whole_view(image)
        else:
            pixels[...] = render_view(image, view, preprocess)
        return None

    def _tokenize(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        known = self._tokens
        new = [text for text in dict.fromkeys(texts) if text not in known]
        if new:
            if len(known) + len(new) > _MAX_CACHED_TEXTS:
                known.clear()
                new = list(dict.fromkeys(texts))
            for text, row in zip(new, self._reading.tokenizer(new).numpy(), strict=True):
                known[text] = (row, caption_id(text))
        tokens = np.stack([known[text][0] for text in texts])
        ids = np.array([known[text][1] for text in texts], dtype=np.int64)
        return torch.from_numpy(tokens), torch.from_numpy(ids)

    def _shard(self, shard: int) -> OpenShard:
        opened = self._shards.get(shard)
        if opened is None:
            opened = self._dataset.open_shard(shard, self._reading.teachers)
            self._shards[shard] = opened
            # Two windows' worth: a batch on a border reads from both.
            while len(self._shards) > 2 * self._order.window_shards + 1:
                self._shards.popitem(last=False)[1].close()
        self._shards.move_to_end(shard)
        return opened


def _unit_rows(codec: Codec, values: np.ndarray, embed_dim: int) -> Float[Tensor, "b d"]:
    return torch.from_numpy(codec.unit_rows(values, embed_dim))
