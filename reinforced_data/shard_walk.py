"""How one process goes through the shards: in which order, and around those that kill.

A process that dies blocks nobody: whoever comes to a shard that another is at, or died at, goes on
elsewhere and comes back at the end. Then it is done once more, and the first commit wins; or it is
quarantined, when three workers have died at it (see attempts.py).
"""

import math
import random
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Literal

from reinforced_data.ranks import rank_and_world_size
from reinforced_data.shard_work import Counts, ShardWork, done_in
from reinforced_data.source import BrokenShard
from reinforced_data.store.attempts import Attempts, is_quarantined, quarantine_text

_LOOK_AGAIN_SECONDS = 0.5
# At the most often; more seldom where a look takes long.
_LOOK_SECONDS = 5.0


def shard_order(num_shards: int) -> list[int]:
    """List all shards, this process's own block first.

    After its own block a process walks the others' backwards, so that two that help each other
    meet once and do not run side by side.
    """
    place = rank_and_world_size()
    return [*_own_block(num_shards, place), *_others_backwards(num_shards, place)]


def _own_block(num_shards: int, place: tuple[int, int]) -> range:
    rank, world_size = place
    return range(num_shards * rank // world_size, num_shards * (rank + 1) // world_size)


def _others_backwards(num_shards: int, place: tuple[int, int]) -> Iterator[int]:
    own = _own_block(num_shards, place)
    return chain(reversed(range(own.start)), reversed(range(own.stop, num_shards)))


class ShardWalk:
    """An iterator over the shards that are not done.

    Launchers without ranks would follow each other. Whoever notices another (`met_another`)
    therefore goes on from a random shard of those it has left.

    When its own block is done, a process looks again at what all have done, and from then on now
    and then: to find each finished shard of a large store by itself would take a thousand workers
    hours, and a thousand million requests.
    """

    def __init__(
        self,
        num_shards: int,
        done: Collection[int],
        seed: int | None = None,
        *,
        look: Callable[[], Collection[int]] | None = None,
        place: tuple[int, int] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start with this process's own block.

        Args:
            num_shards: of the source.
            done: shards to leave out.
            seed: for tests; by default no two processes share one.
            look: asks which shards are done by now; by default nobody is asked.
            place: rank and world size; by default what the environment says.
            clock: what time it is, in seconds.
        """
        self._num_shards, self._place = num_shards, place or rank_and_world_size()
        self._left = deque(
            shard for shard in _own_block(num_shards, self._place) if shard not in done
        )
        self._put_off = deque[int]()
        self._random = random.Random(seed)
        self._look, self._clock = look or (lambda: done), clock
        self._looks, self._next_look = look is not None, math.inf
        self._own = True
        self.first_round = True

    def __iter__(self) -> Iterator[int]:
        """Take shards until none is left; those put off come last, until they are not."""
        while True:
            if self._own and not self._left:
                self._own = False
                done = self._done_by_now()
                others = _others_backwards(self._num_shards, self._place)
                self._left = deque(shard for shard in others if shard not in done)
            elif not (self._left or self._put_off):
                return
            elif self._clock() >= self._next_look:
                done = self._done_by_now()
                self._left = deque(shard for shard in self._left if shard not in done)
                self._put_off = deque(shard for shard in self._put_off if shard not in done)
            elif not self._left:
                self._left, self._put_off = self._put_off, deque()
                self.first_round = False
            else:
                yield self._left.popleft()

    def _done_by_now(self) -> Collection[int]:
        """Look, and see to it that looking never takes more than a tenth of the time."""
        began = self._clock()
        done = self._look()
        now = self._clock()
        pause = max(_LOOK_SECONDS, 10 * (now - began))
        self._next_look = now + pause if self._looks else math.inf
        return done

    def put_off(self, shard: int) -> None:
        """Come back to a shard when the others are done."""
        self._put_off.append(shard)

    def met_another(self) -> None:
        """Go elsewhere: somebody has just done the shard that was taken last."""
        if self._left:
            self._left.rotate(self._random.randrange(len(self._left)))
        if self._looks and self._next_look == math.inf:
            self._next_look = self._clock()


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
    """What came of a walk.

    Attributes:
        written: shards that this process has done, and no other at the same time.
        failed: source shard -> why it could not be read.
        quarantined: source shard -> who died at it.
        counts: what the work has counted, as far as whoever did it lived to tell.
    """

    written: set[int] = field(default_factory=set)
    failed: dict[str, str] = field(default_factory=dict)
    quarantined: dict[str, str] = field(default_factory=dict)
    counts: Counts = field(default_factory=Counter)

    def note(self, shard: int, source: str, tried: Tried) -> None:
        """Keep what came of a shard."""
        if tried.outcome == "done":
            self.written.add(shard)
        elif tried.outcome == "failed":
            self.failed[source] = tried.said or ""
        elif tried.outcome == "quarantined":
            self.quarantined[source] = tried.said or ""


def walk_shards(
    work: ShardWork,
    attempts: Attempts,
    already: Collection[int],
    waiting: Collection[int],
    *,
    on_sample: Callable[[int], None],
    stop_if_told: Callable[[], None],
    left_behind: Callable[[int, str | None], None],
) -> Walked:
    """Do every shard that is not done and can be.

    Args:
        work: what to do.
        attempts: those of this job.
        already: shards that are done.
        waiting: shards that cannot be done yet.
        on_sample: see `ShardWork`.
        stop_if_told: raises when the work is to stop.
        left_behind: called with a shard that is done with, and why it is left out, or None.
    """
    store, walked = work.store, Walked()
    walk = ShardWalk(
        store.num_shards,
        {*already, *waiting},
        look=lambda: done_in(work).union(waiting),
    )
    for shard in walk:
        stop_if_told()
        tried = try_shard(
            work, attempts, shard, on_sample, stop_if_told, share=not walk.first_round
        )
        if tried.outcome == "taken":
            walk.put_off(shard)
            if not walk.first_round:
                time.sleep(_LOOK_AGAIN_SECONDS)
            continue
        if tried.outcome == "met":
            walk.met_another()
        walked.note(shard, store.sources[shard], tried)
        left_behind(shard, tried.said)
    return walked


def try_shard(
    work: ShardWork,
    attempts: Attempts,
    shard: int,
    on_sample: Callable[[int], None],
    stop_if_told: Callable[[], None],
    *,
    share: bool,
) -> Tried:
    """Do one shard, if a place there can be had.

    Args:
        work: what to do.
        attempts: those of this job.
        shard: which.
        on_sample: see `ShardWork`.
        stop_if_told: raises when the work is to stop.
        share: take a place also where another has one, or has died.
    """
    at_it = attempts.of(shard)
    if is_quarantined(at_it):
        return Tried("quarantined", quarantine_text(shard, work.store.sources[shard], at_it))
    place = attempts.take(shard) if share or not at_it else None
    if place is None:
        return Tried("taken")

    def between_batches() -> None:
        place.sign()
        stop_if_told()

    try:
        with place:
            alone = work.shard(shard, between_batches, on_sample)
    except BrokenShard as error:
        return Tried("failed", str(error))
    attempts.forget_the_dead([shard])
    return Tried("done" if alone else "met")
