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
from reinforced_data.order import SampleOrder, caption_id, caption_index, view_index
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
    seed: int
    rank: int
    world_size: int
    whole_image: bool


class _Draft:
    """A batch being filled, shard by shard; row i is sample i of the order."""

    def __init__(self, size: int, reading: Reading) -> None:
        side = reading.preprocess.image_size
        self.pixels = np.empty((size, side, side, 3), np.uint8)
        self.keys = [""] * size
        self.captions = [""] * size
        self.kept = np.zeros(size, dtype=bool)
        self.refused = Counter[str]()
        teachers = reading.teachers
        self.images = [_empty_rows(one.image_codec, size, one.embed_dim) for one in teachers]
        self.texts = [_empty_rows(one.text_codec, size, one.embed_dim) for one in teachers]


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
        reading = self._reading
        epoch, shards, rows = self._order.batch(step)
        first, last = (
            len(rows) * rank // reading.world_size for rank in (reading.rank, reading.rank + 1)
        )
        shards, rows = shards[first:last], rows[first:last]
        draft = _Draft(len(rows), reading)
        for shard in np.unique(shards).tolist():
            slots = np.flatnonzero(shards == shard)
            self._fill(draft, self._shard(shard), slots, rows[slots], epoch)
        if not draft.kept.any():
            raise ValueError(
                f"every sample of step {step} was refused ({dict(draft.refused)}): the images "
                f"in the source are not those that {self._dataset.path} was made from"
            )
        return self._batch(draft, step, epoch)

    def _fill(
        self, draft: _Draft, shard: OpenShard, slots: np.ndarray, rows: np.ndarray, epoch: int
    ) -> None:
        seed, num_views = self._reading.seed, self._reading.num_views
        keys = [shard.index.keys[row] for row in rows]
        texts = [shard.captions[row] for row in rows]
        chosen = np.array([view_index(seed, epoch, key, num_views) for key in keys])
        numbers = [
            caption_index(seed, epoch, key, len(options))
            for key, options in zip(keys, texts, strict=True)
        ]
        views = shard.views.some(rows, chosen)
        for i, (slot, row) in enumerate(zip(slots.tolist(), rows.tolist(), strict=True)):
            draft.keys[slot], draft.captions[slot] = keys[i], texts[i][numbers[i]]
            reason = self._draw(shard, row, views[i], draft.pixels[slot])
            draft.kept[slot] = reason is None
            if reason is not None:
                draft.refused[reason] += 1
        for number, (image_rows, text_rows) in enumerate(shard.embeddings):
            draft.images[number][slots] = image_rows.encoded(rows, chosen)
            draft.texts[number][slots] = text_rows.encoded(rows, np.array(numbers))

    def _draw(self, shard: OpenShard, row: int, view: View, pixels: np.ndarray) -> str | None:
        """Render a view into `pixels`, or say why the sample is refused."""
        data = shard.image(row)
        if hashlib.sha256(data).digest() != shard.index.sha256[row]:
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

    def _batch(self, draft: _Draft, step: int, epoch: int) -> Batch:
        kept = np.flatnonzero(draft.kept)
        # Nearly always all are kept: then nothing is copied.
        rows = slice(None) if len(kept) == len(draft.kept) else kept
        tokens, ids = self._tokenize([draft.captions[i] for i in kept])
        teachers = tuple(
            Embeddings(
                _unit_rows(teacher.image_codec, images[rows], teacher.embed_dim),
                _unit_rows(teacher.text_codec, texts[rows], teacher.embed_dim),
                torch.tensor(teacher.logit_scale),
                None if teacher.logit_bias is None else torch.tensor(teacher.logit_bias),
            )
            for teacher, images, texts in zip(
                self._reading.teachers, draft.images, draft.texts, strict=True
            )
        )
        return Batch(
            keys=[draft.keys[i] for i in kept],
            pixels=torch.from_numpy(draft.pixels[rows]),
            tokens=tokens,
            caption_ids=ids,
            teachers=teachers,
            refused=dict(draft.refused),
            epoch=epoch,
            step=step,
        )

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
