"""What a launcher is given: work that travels to its workers by name, and how it is concluded."""

import os
from collections.abc import Sequence
from typing import ClassVar, Protocol, TypeVar, runtime_checkable

from reinforced_data.shard_walk import Walked
from reinforced_data.shard_work import ShardWork
from reinforced_data.store.columns import Column
from reinforced_data.store.layout import Store
from reinforced_data.store.storage import Storage

Report = TypeVar("Report", covariant=True)


@runtime_checkable
class Job(Protocol[Report]):
    """`Reinforcement` or `Captioning`; pickled, so it holds names and settings, no models.

    Attributes:
        verb: the command's, for people.
    """

    verb: ClassVar[str]

    @property
    def out(self) -> str:
        """The store, which every worker can write."""
        ...

    @property
    def device(self) -> str:
        """Where models run: with "cuda" a worker needs a GPU."""
        ...

    def from_anywhere(self) -> "Job[Report]":
        """Return the same with absolute paths: workers start elsewhere."""
        ...

    def open(self) -> Store:
        """Create or open the store of a job `from_anywhere`, without loading anything."""
        ...

    def make(self) -> ShardWork:
        """Load the models and open the store, in the process that does the work."""
        ...

    def conclude(
        self,
        store: Store,
        columns: Sequence[Column],
        *,
        already: int,
        walked: Walked,
        started: float,
    ) -> Report:
        """Tidy up after all workers, and count.

        Args:
            store: the store.
            columns: what was written.
            already: how many shards were done before.
            walked: what came of the others.
            started: when, by `time.perf_counter`.
        """
        ...


def absolute_store(out: str) -> str:
    """Return where a store is, as any machine that sees it can say."""
    storage = Storage(out)
    return os.path.abspath(storage.root) if storage.local else storage.name


def absolute_model(spec: str) -> str:
    """Return the same specification of a teacher or student, a folder by its absolute path."""
    return os.path.abspath(spec) if os.path.isdir(spec) else spec
