"""How one process goes through the shards: in which order, and around those that kill.

A process that dies blocks nobody: whoever comes to a shard that another is at, or died at, goes on
elsewhere and comes back at the end. Then it is done once more, and the first commit wins; or it is
quarantined, when three workers have died at it (see attempts.py).
"""

import random
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from typing import Literal

from reinforced_data.attempts import Attempts, is_quarantined, quarantine_text
from reinforced_data.layout import Store
from reinforced_data.ranks import rank_and_world_size
from reinforced_data.source import BrokenShard

_LOOK_AGAIN_SECONDS = 0.5


def shard_order(num_shards: int) -> list[int]:
    """List all shards, this process's own block first.

    After its own block a process walks the others' backwards, so that two that help each other
    meet once and do not run side by side.
    """
    rank, world_size = rank_and_world_size()
    first, last = (num_shards * r // world_size for r in (rank, rank + 1))
    return [*range(first, last), *reversed(range(first)), *reversed(range(last, num_shards))]


class ShardWalk:
    """An iterator over the shards that are not done.

    Launchers without ranks would follow each other. Whoever notices another (`met_another`)
    therefore goes on from a random shard of those it has left.
    """

    def __init__(self, num_shards: int, done: Collection[int], seed: int | None = None) -> None:
        """Start in `shard_order`; `seed` is for tests, by default no two processes share one."""
        self._left = deque(shard for shard in shard_order(num_shards) if shard not in done)
        self._put_off = deque[int]()
        self._random = random.Random(seed)
        self.first_round = True

    def __iter__(self) -> Iterator[int]:
        """Take shards until none is left; those put off come last, until they are not."""
        while self._left or self._put_off:
            if not self._left:
                self._left, self._put_off = self._put_off, deque()
                self.first_round = False
            yield self._left.popleft()

    def put_off(self, shard: int) -> None:
        """Come back to a shard when the others are done."""
        self._put_off.append(shard)

    def met_another(self) -> None:
        """Go elsewhere: somebody has just done the shard that was taken last."""
        if self._left:
            self._left.rotate(self._random.randrange(len(self._left)))


@dataclass(frozen=True)
class Tried:
    """What came of a shard, and why it is left out where it is.

    Outcomes: done; met, when another process has done some of it; taken by others, or not to be
    shared; failed, as no tar; quarantined.
    """

    outcome: Literal["done", "met", "taken", "failed", "quarantined"]
    said: str | None = None


@dataclass(frozen=True, kw_only=True)
class Walked:
    """What a walk had to leave out.

    Attributes:
        failed: source shard -> why it could not be read.
        quarantined: source shard -> who died at it.
    """

    failed: dict[str, str] = field(default_factory=dict)
    quarantined: dict[str, str] = field(default_factory=dict)

    def note(self, source: str, tried: Tried) -> None:
        """Keep what came of a shard, if it was left out."""
        if tried.outcome == "failed":
            self.failed[source] = tried.said or ""
        elif tried.outcome == "quarantined":
            self.quarantined[source] = tried.said or ""


def walk_shards(
    store: Store,
    done: Collection[int],
    work: Callable[[int, Callable[[], None]], bool],
    *,
    stop_if_told: Callable[[], None],
    left_behind: Callable[[int, str | None], None],
) -> Walked:
    """Do `work` on every shard that is not done.

    Args:
        store: whose shards.
        done: shards to leave out.
        work: called with the shard and with what it has to call between batches; returns False
            when another process was at the shard too.
        stop_if_told: raises when the work is to stop.
        left_behind: called with a shard that is done with, and why it is left out, or None.
    """
    attempts = Attempts(store.storage)
    walk, walked = ShardWalk(store.num_shards, done), Walked()
    for shard in walk:
        stop_if_told()
        tried = try_shard(store, attempts, shard, work, stop_if_told, share=not walk.first_round)
        if tried.outcome == "taken":
            walk.put_off(shard)
            if not walk.first_round:
                time.sleep(_LOOK_AGAIN_SECONDS)
            continue
        if tried.outcome == "met":
            walk.met_another()
        walked.note(store.sources[shard], tried)
        left_behind(shard, tried.said)
    return walked


def try_shard(
    store: Store,
    attempts: Attempts,
    shard: int,
    work: Callable[[int, Callable[[], None]], bool],
    stop_if_told: Callable[[], None],
    *,
    share: bool,
) -> Tried:
    """Do `work` on one shard, if a place there can be had.

    Args:
        store: whose shard.
        attempts: at its shards.
        shard: which.
        work: see `walk_shards`.
        stop_if_told: raises when the work is to stop.
        share: take a place also where another has one, or has died.
    """
    at_it = attempts.of(shard)
    if is_quarantined(at_it):
        return Tried("quarantined", quarantine_text(shard, store.sources[shard], at_it))
    place = attempts.take(shard) if share or not at_it else None
    if place is None:
        return Tried("taken")

    def between_batches() -> None:
        place.sign()
        stop_if_told()

    try:
        with place:
            alone = work(shard, between_batches)
    except BrokenShard as error:
        return Tried("failed", str(error))
    attempts.forget_the_dead([shard])
    return Tried("done" if alone else "met")
