"""One worker of `reinforce_on_ray`: loads the teachers once, then does one shard after another.

The driver (ray_driver.py) makes an actor of `ReinforceWorker`. All it has is in the store: a
worker that dies takes nothing with it but its unfinished shard.
"""

import os
import socket
from collections.abc import Callable
from dataclasses import dataclass

from distill.reinforcing.ray_cluster import this_node
from distill.reinforcing.reinforcement import Reinforcement
from reinforced_data.shard_walk import Tried, try_shard
from reinforced_data.stop_signals import Interrupted
from reinforced_data.store.attempts import Attempts, job_of
from reinforced_data.store.columns import Column
from reinforced_data.store.storage import Storage


@dataclass(frozen=True, kw_only=True)
class Begun:
    """What a worker says when it is ready: which columns are written, and on which node it is."""

    columns: tuple[Column, ...]
    node: str


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a worker says about a shard: what came of it, None when it was stopped; its samples."""

    tried: Tried | None
    samples: int = 0


class ReinforceWorker:
    """An actor; `stop` may be called while `shard` runs."""

    def __init__(self, name: str, work: Reinforcement) -> None:
        """Do nothing yet: an error here would reach the driver as a dead actor's."""
        self._name, self._asked = name, work
        self._told = False

    def begin(self) -> Begun:
        """Load everything.

        Raises:
            ValueError: the store that the driver made is not there; or as `reinforce`.
        """
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        if not Storage(self._asked.out).exists("sources.json"):
            raise ValueError(
                f"{self._asked.out} is not on {socket.gethostname()}, where a worker runs: the "
                "store has to be where every machine sees it, on a shared disk or at a URL such "
                "as s3://BUCKET/NAME"
            )
        self._work = self._asked.make()
        columns = self._work.plan.columns
        self._attempts = Attempts(self._work.store.storage, job_of(columns), self._name)
        return Begun(columns=columns, node=this_node())

    def shard(self, shard: int, share: bool) -> Answer:
        """Do a shard; raises what `reinforce` raises, but for shards that are to be left out.

        Args:
            shard: which.
            share: also where another is at it, or died at it.
        """
        samples = 0

        def on_sample(size: int) -> None:
            nonlocal samples
            samples += 1

        def work(shard: int, between_batches: Callable[[], None]) -> bool:
            return self._work.shard(shard, between_batches, on_sample)

        store, attempts = self._work.store, self._attempts
        try:
            tried = try_shard(store, attempts, shard, work, self._stop_if_told, share=share)
        except Interrupted:
            return Answer(tried=None, samples=samples)
        return Answer(tried=tried, samples=samples)

    def stop(self) -> None:
        """End the shard under way after its batch."""
        self._told = True

    def _stop_if_told(self) -> None:
        if self._told:
            raise Interrupted("told by the driver", 0)
