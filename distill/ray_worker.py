"""One worker of `reinforce_on_ray`: loads the teachers once, then does one shard after another.

Nothing here imports Ray; the driver (ray_launcher.py) makes an actor of `ReinforceWorker`. All it
has is in the store: a worker that dies takes nothing with it but its unfinished shard.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass

from distill.remote_work import RemoteWork
from reinforced_data.attempts import Attempts
from reinforced_data.columns import Column
from reinforced_data.reinforce_work import make_reinforce_work
from reinforced_data.shard_walk import Tried, try_shard
from reinforced_data.stop_signals import Interrupted


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a worker says about a shard: what came of it, None when it was stopped; its samples."""

    tried: Tried | None
    samples: int = 0


class ReinforceWorker:
    """An actor; `stop` may be called while `shard` runs."""

    def __init__(self, name: str, work: RemoteWork) -> None:
        """Do nothing yet: an error here would reach the driver as a dead actor's."""
        self._name, self._remote = name, work
        self._told = False

    def begin(self) -> tuple[Column, ...]:
        """Load everything; return the columns that are written."""
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        remote = self._remote
        self._work = make_reinforce_work(
            remote.source, remote.out, remote.load_teachers(), remote.settings
        )
        self._attempts = Attempts(self._work.store.storage, self._name)
        return self._work.plan.columns

    def shard(self, shard: int) -> Answer:
        """Do a shard; raises what `reinforce` raises, but for shards that are to be left out."""
        samples = 0

        def on_sample(size: int) -> None:
            nonlocal samples
            samples += 1

        def work(shard: int, between_batches: Callable[[], None]) -> bool:
            return self._work.shard(shard, between_batches, on_sample)

        try:
            tried = try_shard(
                self._work.store, self._attempts, shard, work, self._stop_if_told, share=True
            )
        except Interrupted:
            return Answer(tried=None, samples=samples)
        return Answer(tried=tried, samples=samples)

    def stop(self) -> None:
        """End the shard under way after its batch."""
        self._told = True

    def _stop_if_told(self) -> None:
        if self._told:
            raise Interrupted("told by the driver", 0)
