"""Which of a sample's texts training reads: a policy over caption sets.

LaCLIP draws uniformly from the original and its rewrites and falls back to the original where a
rewrite is unusable; VeCLIP mixes originals and written captions half and half; MobileCLIP reads one
of each per step and adds the two losses up. Every choice is a function of (seed, epoch, key).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import Bool, Int64

from reinforced_data.reading.order import caption_index, caption_set_draw
from reinforced_data.store.columns import ORIGINAL
from teachers.suggestions import unknown_name

CaptionPolicyKind = Literal["original", "uniform", "weighted", "mix", "sum"]


@dataclass(frozen=True, kw_only=True)
class CaptionPolicy:
    """How a step chooses captions; within the chosen set one is drawn anew every epoch.

    A sample without a caption in the chosen set has one of its original captions instead, or,
    where it has none of those either, one of the first set that has any.

    Attributes:
        kind: original: the source's own. uniform: a set drawn from the original and `sets`.
            weighted: the same, by `weights`. mix: one of `sets` with the probability `written`,
            else the original. sum: both, in two losses that are added up.
        sets: names of written sets; when None all that the store has.
        weights: for weighted: of the original set, then of each of `sets`.
        written: for mix: how often a written caption is read.
    """

    kind: CaptionPolicyKind = "original"
    sets: tuple[str, ...] | None = None
    weights: tuple[float, ...] | None = None
    written: float = 0.5

    def __post_init__(self) -> None:
        """Refuse what is no policy, and settings that this kind does not read."""
        if self.kind not in get_args(CaptionPolicyKind):
            known = get_args(CaptionPolicyKind)
            raise ValueError(f"captions.kind must be one of {known}, got {self.kind!r}")
        if self.sets is not None and (ORIGINAL in self.sets or len({*self.sets}) < len(self.sets)):
            raise ValueError(
                f"captions.sets names written sets, each once; {ORIGINAL!r} takes part by itself, "
                f"got {self.sets}"
            )
        if not 0 <= self.written <= 1:
            raise ValueError(f"captions.written must be in [0, 1], got {self.written}")
        self._check_weights()

    def _check_weights(self) -> None:
        if (self.weights is not None) != (self.kind == "weighted"):
            raise ValueError(
                f"captions.weights and kind='weighted' go together, got weights={self.weights} "
                f"with kind={self.kind!r}"
            )
        if self.weights is None:
            return
        if self.sets is None or len(self.weights) != 1 + len(self.sets):
            raise ValueError(
                "captions.weights needs a number for the original set and one for each of "
                f"captions.sets, got {self.weights} for {self.sets}"
            )
        if not (min(self.weights) >= 0 and 0 < sum(self.weights) < float("inf")):
            raise ValueError(
                f"captions.weights must be >= 0, finite and not all 0, got {self.weights}"
            )

    def shares(self, written: Sequence[str]) -> tuple[dict[str, float], ...]:
        """How often each set is drawn, for each text that a step reads of a sample.

        Args:
            written: the sets that the store has, beside the original.

        Returns:
            One mapping (for sum two): the original set first, which is also the fallback, then
            the written sets with a share above 0.

        Raises:
            ValueError: a set is not there, or there is none and one is needed.
        """
        if self.kind == "original":
            return ({ORIGINAL: 1.0},)
        for name in self.sets or ():
            if name not in written:
                raise unknown_name("caption set", name, written)
        sets = tuple(written) if self.sets is None else self.sets
        if not sets:
            raise ValueError(
                f"captions.kind={self.kind!r} needs a written caption set, and there is none: "
                "write one with distill caption, or set captions.kind to original"
            )
        each = 1.0 / len(sets)
        if self.kind == "sum":
            return {ORIGINAL: 1.0}, {ORIGINAL: 0.0, **dict.fromkeys(sets, each)}
        if self.kind == "mix":
            numbers = [1.0 - self.written, *[self.written * each] * len(sets)]
        else:
            weights = self.weights or (1.0,) * (1 + len(sets))
            numbers = [weight / sum(weights) for weight in weights]
        named = zip((ORIGINAL, *sets), numbers, strict=True)
        return ({name: share for name, share in named if share or name == ORIGINAL},)


class Picked(NamedTuple):
    """The caption of each sample: which set, by place, and which of its texts there."""

    sets: Int64[np.ndarray, " n"]
    numbers: Int64[np.ndarray, " n"]


def pick_captions(
    shares: Sequence[float],
    counts: Int64[np.ndarray, "sets n"],
    *,
    seed: int,
    epoch: int,
    keys: Sequence[str],
) -> Picked:
    """Choose a caption for each sample.

    Args:
        shares: how often each set is drawn; they sum to 1. The first set is the fallback.
        counts: how many captions each sample has in each set; 0 for none that can be used.
        seed: of the run.
        epoch: passes over all samples before this one.
        keys: of the samples.
    """
    edges = np.cumsum(shares)
    sets = np.zeros(len(keys), np.int64)
    if edges[0] < 1:
        # The last edge may be a hair below 1.
        draws = np.array([caption_set_draw(seed, epoch, key) for key in keys])
        sets = np.minimum(np.searchsorted(edges, draws, side="right"), len(shares) - 1)
    sets = _fall_back(sets, counts > 0)
    chosen = counts[sets, np.arange(len(keys))]
    numbers = np.zeros(len(keys), np.int64)
    for i in np.flatnonzero(chosen > 1).tolist():
        numbers[i] = caption_index(seed, epoch, keys[i], int(chosen[i]))
    return Picked(sets, numbers)


def _fall_back(
    sets: Int64[np.ndarray, " n"], usable: Bool[np.ndarray, "sets n"]
) -> Int64[np.ndarray, " n"]:
    """Keep the drawn set where it can be used; else the first that can, from the first on."""
    return np.where(usable[sets, np.arange(len(sets))], sets, usable.argmax(0))
