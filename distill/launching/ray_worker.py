"""One worker of `launch_on_ray`: loads the models once, then does one shard after another.

The driver (ray_driver.py) makes an actor of `ShardWorker`. All it has is in the store: a
worker that dies takes nothing with it but its unfinished shard.
"""

import os
import socket
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from distill.launching.job import Job
from distill.launching.ray_cluster import this_node
from reinforced_data.shard_walk import Tried, try_shard
from reinforced_data.shard_work import Counts
from reinforced_data.stop_signals import Interrupted
from reinforced_data.store.attempts import Attempts, job_of
from reinforced_data.store.columns import Column
from reinforced_data.store.storage import Storage


@dataclass(frozen=True, kw_only=True)
class Begun:
    """What a worker says when it is ready.

    Attributes:
        columns, needs: see `ShardWork`.
        node: on which it is.
    """

    columns: tuple[Column, ...]
    needs: tuple[Column, ...]
    node: str


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a worker says about a shard.

    Attributes:
        tried: what came of it, None when the worker was stopped.
        samples: how many it has been through.
        counts: what the work has counted.
        warnings: for people.
    """

    tried: Tried | None
    samples: int = 0
    counts: Counts = field(default_factory=Counter)
    warnings: tuple[str, ...] = ()


class ShardWorker:
    """An actor; `stop` may be called while `shard` runs."""

    def __init__(self, name: str, job: Job[Any]) -> None:
        """Do nothing yet: an error here would reach the driver as a dead actor's."""
        self._name, self._job = name, job
        self._warnings: list[str] = []
        self._told = False

    def begin(self) -> Begun:
        """Load everything.

        Raises:
            ValueError: the store that the driver opened is not there; or as the job's `make`.
        """
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        if not Storage(self._job.out).exists("sources.json"):
            raise ValueError(
                f"{self._job.out} is not on {socket.gethostname()}, where a worker runs: the "
                "store has to be where every machine sees it, on a shared disk or at a URL such "
                "as s3://BUCKET/NAME"
            )
        self._work = self._job.make()
        self._work.warn_by(self._warnings.append)
        columns = self._work.columns
        self._attempts = Attempts(self._work.store.storage, job_of(columns), self._name)
        return Begun(columns=columns, needs=self._work.needs, node=this_node())

    def shard(self, shard: int, share: bool) -> Answer:
        """Do a shard; raises what the work raises, but for shards that are to be left out.

        Args:
            shard: which.
            share: also where another is at it, or died at it.
        """
        samples = 0

        def on_sample(size: int) -> None:
            nonlocal samples
            samples += 1

        self._warnings.clear()
        try:
            tried = try_shard(
                self._work, self._attempts, shard, on_sample, self._stop_if_told, share=share
            )
        except Interrupted:
            return Answer(tried=None, samples=samples)
        counts = self._work.take_counts()
        return Answer(tried=tried, samples=samples, counts=counts, warnings=tuple(self._warnings))

    def stop(self) -> None:
        """End the shard under way after its batch."""
        self._told = True

    def _stop_if_told(self) -> None:
        if self._told:
            raise Interrupted("told by the driver", 0)
