"""What `reinforce` and `caption` have in common: a store, columns to write, shard by shard.

Whoever goes through the shards (shard_walk.py, the launchers in `distill`) knows no more than this.
"""

import signal
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

from reinforced_data.stop_signals import Interrupted
from reinforced_data.store.attempts import Attempts, job_of
from reinforced_data.store.columns import Column
from reinforced_data.store.layout import Store
from reinforced_data.store.leftovers import remove_leftovers

Counts = Counter[tuple[str, str]]
"""How often what happened, by kind and reason; those of several processes can be added."""


@runtime_checkable
class ShardWork(Protocol):
    """Work on a store, ready to be done in this process."""

    @property
    def store(self) -> Store:
        """Where to."""
        ...

    @property
    def columns(self) -> tuple[Column, ...]:
        """What is written."""
        ...

    @property
    def needs(self) -> tuple[Column, ...]:
        """What a shard has to have before it can be done."""
        ...

    def shard(
        self,
        shard: int,
        between_batches: Callable[[], None],
        on_sample: Callable[[int], None],
    ) -> bool:
        """Write the units of a shard that are missing; False when another process was at it too.

        Args:
            shard: which.
            between_batches: called where the work may stop, which it does when this raises.
            on_sample: called with the bytes of each sample's image, for progress.

        Raises:
            BrokenShard: the source shard is truncated or not a tar.
        """
        ...

    def take_counts(self) -> Counts:
        """Return what was counted since this was asked last."""
        ...

    def warn_by(self, tell: Callable[[str], None]) -> None:
        """Have sentences that people should see at once told, by any thread."""
        ...


def done_in(work: ShardWork) -> set[int]:
    """List the shards that every column has."""
    return work.store.done_in_all(work.columns)


def waiting_in(store: Store, needs: Sequence[Column]) -> set[int]:
    """List the shards that cannot be done yet."""
    return set(range(store.num_shards)) - store.done_in_all(needs) if needs else set()


def tidy_up(store: Store, columns: Sequence[Column]) -> None:
    """Remove what the killed left in a store, after the work on these columns."""
    Attempts(store.storage, job_of(columns)).forget_the_dead(store.done_in_all(columns))
    remove_leftovers(store)


def stopped(store: Store, columns: Sequence[Column], signum: int) -> Interrupted:
    """Word what a stop signal has come to; without columns nobody has begun."""
    done = len(store.done_in_all(columns)) if columns else 0
    of = "".join(
        f" of the caption set {column.identity['set']!r}"
        for column in columns[:1]
        if column.kind == "captions"
    )
    return Interrupted(
        f"stopped by {signal.Signals(signum).name} with {done} of {store.num_shards} shards{of} "
        f"done in {store.name}; the same command goes on from there",
        128 + signum,
    )
