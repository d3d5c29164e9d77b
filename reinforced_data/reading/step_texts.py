"""The texts of a step: which caption each sample has, and the teachers' rows for it.

A step reads one text of every sample, or two when a policy adds the losses of two up
(`CaptionPolicy`, kind sum).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from reinforced_data.captions.policy import CaptionPolicy, pick_captions
from reinforced_data.codecs.codec import Codec
from reinforced_data.reading.open_shard import OpenShard
from reinforced_data.reading.spare_arrays import SpareArrays
from reinforced_data.reading.stored_teachers import StoredTeacher
from reinforced_data.store.columns import ORIGINAL


@dataclass(frozen=True)
class CaptionShares:
    """A policy as a run reads it.

    Attributes:
        sets: the caption sets that it needs, the original first.
        shares: for each text of a step how often each of `sets` is drawn.
    """

    sets: tuple[str, ...]
    shares: tuple[tuple[float, ...], ...]

    @classmethod
    def of(cls, policy: CaptionPolicy, written: Sequence[str]) -> "CaptionShares":
        """Hold a policy against the written sets of a store; raises as `CaptionPolicy.shares`."""
        named = policy.shares(written)
        sets = tuple(dict.fromkeys([ORIGINAL, *(name for shares in named for name in shares)]))
        return cls(sets, tuple(tuple(one.get(name, 0.0) for name in sets) for one in named))


class StepTexts:
    """One text of each sample of a step, being filled shard by shard.

    Attributes:
        captions: of each sample.
        rows: per teacher the rows of these captions, still encoded.
    """

    def __init__(
        self,
        size: int,
        teachers: Sequence[StoredTeacher],
        shares: tuple[float, ...],
        spare: SpareArrays,
    ) -> None:
        """Make room."""
        self.captions = [""] * size
        self.rows = [empty_rows(one.text_codec, size, one.embed_dim, spare) for one in teachers]
        self._shares = shares

    def fill(
        self,
        shard: OpenShard,
        slots: np.ndarray,
        rows: np.ndarray,
        keys: Sequence[str],
        *,
        seed: int,
        epoch: int,
    ) -> None:
        """Choose a caption for each of these rows of a shard, and read it."""
        counts = shard.caption_counts(rows)
        picked = pick_captions(self._shares, counts, seed=seed, epoch=epoch, keys=keys)
        for place, captions in enumerate(shard.captions):
            chosen = np.flatnonzero(picked.sets == place)
            if not len(chosen):
                continue
            there, numbers, into = rows[chosen], picked.numbers[chosen], slots[chosen]
            texts = captions.some(there, numbers)
            for slot, text in zip(into.tolist(), texts, strict=True):
                self.captions[slot] = text
            for encoded, (_, text_rows) in zip(self.rows, shard.embeddings, strict=True):
                if text_rows:
                    encoded[into] = text_rows[place].encoded(there, numbers)


def empty_rows(codec: Codec | None, size: int, embed_dim: int, spare: SpareArrays) -> np.ndarray:
    """Room for encoded rows; of width 0 where a teacher has no such rows."""
    if codec is None:
        return np.empty((size, 0), np.float32)
    return spare.take((size, codec.width(embed_dim)), codec.dtype)
