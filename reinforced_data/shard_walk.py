"""In which order a process goes through the shards, so that several of them seldom meet.

Nobody claims a shard: the first commit wins, and a process that dies blocks nobody. So the order
has to see to it that little is done twice.
"""

import os
import random
from collections import deque
from collections.abc import Collection, Iterator


def shard_order(num_shards: int) -> list[int]:
    """List all shards, this process's own block first.

    After its own block a process walks the others' backwards, so that two that help each other
    meet once and do not run side by side.
    """
    rank = int(os.environ.get("RANK", "0"))
    world_size = max(1, int(os.environ.get("WORLD_SIZE", "1")))
    first, last = (num_shards * r // world_size for r in (rank, rank + 1))
    return [*range(first, last), *reversed(range(first)), *reversed(range(last, num_shards))]


class ShardWalk:
    """An iterator over the shards that are not done.

    Two launchers without ranks would run side by side, each doing what the other does. Whoever
    notices another (`met_another`) therefore goes on from a random shard of those it has left.
    """

    def __init__(self, num_shards: int, done: Collection[int], seed: int | None = None) -> None:
        """Start in `shard_order`; `seed` is for tests, by default no two processes share one."""
        self._left = deque(shard for shard in shard_order(num_shards) if shard not in done)
        self._random = random.Random(seed)

    def __iter__(self) -> Iterator[int]:
        """Take shards until none is left."""
        while self._left:
            yield self._left.popleft()

    def met_another(self) -> None:
        """Go elsewhere: somebody has just done the shard that was taken last."""
        if self._left:
            self._left.rotate(self._random.randrange(len(self._left)))
