"""The order of samples: a function of (seed, epoch, step) alone, for any number of processes.

An epoch is a seeded permutation of the shards, then a shuffle inside windows of W shards: nearly as
good as a full shuffle, while only W shards have to be at hand. Only the bits of NumPy's Philox
generator are used, which never change; its higher methods may.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64

# So many samples are sorted at a time: about a millisecond's work.
_PART = 1 << 14


class Place(NamedTuple):
    """Where the samples of a batch are.

    Attributes:
        epoch: how many times all samples were seen before.
        shards: the shard of each sample.
        rows: its row there.
    """

    epoch: int
    shards: np.ndarray
    rows: np.ndarray


class SampleOrder:
    """All batches of a training run, by step.

    Args:
        num_rows: of each shard.
        excluded: the rows of each shard that may not be used.
        batch_size: samples per step, over all processes. The rest of an epoch is dropped.
        window_shards: W.
        seed: of the order.

    Raises:
        ValueError: fewer samples than one batch.
    """

    def __init__(
        self,
        num_rows: Sequence[int],
        excluded: Sequence[Iterable[int]],
        *,
        batch_size: int,
        window_shards: int,
        seed: int,
    ) -> None:
        """Count the samples."""
        self._num_rows = list(num_rows)
        # Only the exceptions are kept: a billion row numbers would not fit.
        self._excluded = [np.unique(np.array(list(rows), dtype=np.int64)) for rows in excluded]
        self._counts = np.array(num_rows, dtype=np.int64)
        self._starts = np.cumsum(self._counts) - self._counts
        self._counts -= [len(rows) for rows in self._excluded]
        self.batch_size = batch_size
        self.window_shards = window_shards
        self.seed = seed
        self.num_samples = int(self._counts.sum())
        self.steps_per_epoch = self.num_samples // batch_size
        self._epochs: OrderedDict[int, tuple[np.ndarray, np.ndarray]] = OrderedDict()
        self._windows: OrderedDict[tuple[int, int], np.ndarray] = OrderedDict()
        self._coming: tuple[tuple[int, int], np.ndarray, Iterator[None]] | None = None
        if self.steps_per_epoch == 0:
            raise ValueError(
                f"a batch of {batch_size} needs at least as many samples, there are "
                f"{self.num_samples} that can be used"
            )

    def __getstate__(self) -> dict[str, object]:
        """Leave a shuffle under way behind: it is begun again where it is needed."""
        return {**self.__dict__, "_coming": None}

    def batch(self, step: int) -> Place:
        """Return the samples of a step."""
        epoch, step_in_epoch = divmod(step, self.steps_per_epoch)
        first = step_in_epoch * self.batch_size
        last = first + self.batch_size
        ends = self._shards(epoch)[1]
        parts, window = [], int(np.searchsorted(ends, first, side="right"))
        while first < last:
            start = int(ends[window - 1]) if window else 0
            stop = min(last, int(ends[window]))
            if stop > first:
                picked = self._window(epoch, window)[first - start : stop - start]
                parts.append(self._places(epoch, window, picked))
            first, window = stop, window + 1
        found, rows = (np.concatenate(part) for part in zip(*parts, strict=True))
        return Place(epoch, found, rows)

    def numbers(self, shards: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Number samples through all shards, unusable rows too: the same in every epoch."""
        return self._starts[shards] + rows

    def coming(self, step: int) -> tuple[int, int]:
        """Return epoch and number of the window after the one in which a step ends."""
        epoch, step_in_epoch = divmod(step, self.steps_per_epoch)
        last = (step_in_epoch + 1) * self.batch_size - 1
        window = int(np.searchsorted(self._shards(epoch)[1], last, side="right")) + 1
        return (epoch, window) if window < len(self._shards(epoch)[1]) else (epoch + 1, 0)

    def around(self, step: int) -> tuple[int, int]:
        """Return how many steps the window in which a step ends has behind it, and before it."""
        epoch, step_in_epoch = divmod(step, self.steps_per_epoch)
        last, ends = (step_in_epoch + 1) * self.batch_size - 1, self._shards(epoch)[1]
        window = int(np.searchsorted(ends, last, side="right"))
        start = int(ends[window - 1]) if window else 0
        return (last - start) // self.batch_size, (int(ends[window]) - last) // self.batch_size

    def window(self, epoch: int, window: int) -> list[int]:
        """List the shards of a window."""
        first = window * self.window_shards
        return self._shards(epoch)[0][first : first + self.window_shards].tolist()

    def prepare(self, epoch: int, window: int) -> None:
        """Do a part of shuffling a window before it is needed; again and again, all of it."""
        if (epoch, window) in self._windows:
            return
        if self._coming is None or self._coming[0] != (epoch, window):
            order = self._unordered(epoch, window)
            self._coming = (epoch, window), order, self._shuffling(order, epoch, window)
        _, order, parts = self._coming
        if next(parts, "done") == "done":
            self._coming = None
            self._keep(epoch, window, order)

    def _shards(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Return an epoch's permutation of shards, and where each of its windows ends."""
        if epoch not in self._epochs:
            shards = _permutation(len(self._num_rows), self.seed, epoch, "shards")
            starts = np.arange(0, len(shards), self.window_shards)
            ends = np.cumsum(np.add.reduceat(self._counts[shards], starts))
            self._epochs[epoch] = shards, ends
            while len(self._epochs) > 2:
                self._epochs.popitem(last=False)
        return self._epochs[epoch]

    def _window(self, epoch: int, window: int) -> np.ndarray:
        """Return the order of a window's samples: numbers among those of its shards together."""
        known = self._windows.get((epoch, window))
        if known is not None:
            return known
        order = self._unordered(epoch, window)
        for _ in self._shuffling(order, epoch, window):
            pass
        self._keep(epoch, window, order)
        return order

    def _unordered(self, epoch: int, window: int) -> np.ndarray:
        return np.empty(int(self._counts[self.window(epoch, window)].sum()), np.int64)

    def _shuffling(self, order: np.ndarray, epoch: int, window: int) -> Iterator[None]:
        return _permuting(order, self.seed, epoch, f"window {window * self.window_shards}")

    def _keep(self, epoch: int, window: int, order: np.ndarray) -> None:
        self._windows[epoch, window] = order
        # A batch touches two windows at a border; the one after is prepared ahead.
        while len(self._windows) > 3:
            self._windows.popitem(last=False)

    def _places(self, epoch: int, window: int, picked: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Find shard and row of samples that are numbered through a window's shards."""
        shards = np.array(self.window(epoch, window))
        counts = self._counts[shards]
        ends = np.cumsum(counts)
        which = np.searchsorted(ends, picked, side="right")
        rows = picked - (ends - counts)[which]
        for number, shard in enumerate(shards.tolist()):
            excluded = self._excluded[shard]
            if len(excluded):
                own = which == number
                # Before usable row k lie those excluded rows that have at most k usable before.
                usable_before = excluded - np.arange(len(excluded))
                rows[own] += np.searchsorted(usable_before, rows[own], side="right")
        return shards[which], rows


def _permutation(size: int, seed: int, epoch: int, what: str) -> np.ndarray:
    order = np.empty(size, np.int64)
    for _ in _permuting(order, seed, epoch, what):
        pass
    return order


def _permuting(order: np.ndarray, seed: int, epoch: int, what: str) -> Iterator[None]:
    """Fill `order` with that of as many random numbers, stopping after each part of it."""
    digest = hashlib.sha256(f"{seed}/{epoch}/{what}".encode()).digest()
    bits = np.random.Philox(key=int.from_bytes(digest[:16], "little"))
    raw, parts, done = np.empty(len(order), np.uint64), -(-len(order) // _PART), 0
    part = np.empty(len(order), np.uint32)
    # Drawn piece by piece too: what is small lies in memory that was just used.
    for start in range(0, len(order), _PART):
        some = bits.random_raw(min(_PART, len(order) - start))
        raw[start : start + _PART] = some
        # By the leading bits: a part is sorted alone, and lies before the next one as a whole.
        leading = (some >> np.uint64(48)) * np.uint64(parts) >> np.uint64(16)
        part[start : start + _PART] = leading
    for number in range(parts):
        own = np.flatnonzero(part == number)
        values = raw[own]
        by_value = np.argsort(values)
        # The order is that of a stable sort, at a fifth of its time: 64 bits are all but never
        # equal.
        ordered = values[by_value]
        if (ordered[1:] == ordered[:-1]).any():
            by_value = np.argsort(values, kind="stable")
        order[done : done + len(own)] = own[by_value]
        done += len(own)
        yield


def view_indices(
    seed: int, epoch: int, keys: Sequence[str], num_views: int
) -> Int64[np.ndarray, " n"]:
    """Choose the view of each sample: a start of its own, then one further every epoch.

    So all views are seen before one comes again.
    """
    starts = b"".join(
        hashlib.blake2b(f"view/{seed}/{key}".encode(), digest_size=8).digest() for key in keys
    )
    starts = (np.frombuffer(starts, "<u8") % num_views).astype(np.int64)
    return (starts + epoch) % num_views


def caption_index(seed: int, epoch: int, key: str, num_captions: int) -> int:
    """Choose the caption of a sample, anew every epoch, whichever the view."""
    return _draw(f"caption/{seed}/{epoch}/{key}") % num_captions if num_captions > 1 else 0


def caption_set_draw(seed: int, epoch: int, key: str) -> float:
    """Draw a number of [0, 1) that decides on a sample's caption set, anew every epoch."""
    # 53 bits: all that a float holds, and never rounded up to 1.
    return (_draw(f"caption-set/{seed}/{epoch}/{key}") >> 11) * 2.0**-53


def caption_id(text: str) -> int:
    """Hash a caption to 63 bits: equal texts, equal ids, on every rank."""
    return _draw(text) >> 1


def _draw(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
