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

from reinforced_data.attempts import Attempts, Place, is_quarantined, quarantine_text
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


@dataclass(frozen=True, kw_only=True)
class Walked:
    """What a walk had to leave out.

    Attributes:
        failed: source shard -> why it could not be read.
        quarantined: source shard -> who died at it.
    """

    failed: dict[str, str] = field(default_factory=dict)
    quarantined: dict[str, str] = field(default_factory=dict)


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
        at_it = attempts.of(shard)
        if is_quarantined(at_it):
            said = quarantine_text(shard, store.sources[shard], at_it)
            walked.quarantined[store.sources[shard]] = said
            left_behind(shard, said)
            continue
        place = None if at_it and walk.first_round else attempts.take(shard)
        if place is None:
            walk.put_off(shard)
            if not walk.first_round:
                time.sleep(_LOOK_AGAIN_SECONDS)
            continue

        def between_batches(place: Place = place) -> None:
            place.sign()
            stop_if_told()

        said = None
        try:
            with place:
                if not work(shard, between_batches):
                    walk.met_another()
            attempts.forget_the_dead([shard])
        except BrokenShard as error:
            said = walked.failed[store.sources[shard]] = str(error)
        left_behind(shard, said)
    return walked
