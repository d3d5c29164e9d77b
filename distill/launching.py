"""Launchers of stage 1: in this process, in several that are watched over, on a Ray cluster.

All do the same: the store coordinates, a launcher only sees to it that workers are there
(docs/launchers.md). accelerate and Slurm need none of this: they start this command several times.
"""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import FrameType
from typing import Any, Literal

import torch

from distill.doctor import usable_cores
from distill.ray_launcher import Cluster, reinforce_on_ray
from distill.remote_work import RemoteWork
from distill.shards_bar import ShardsBar
from distill.worker_processes import Died, run_each
from reinforced_data import ReinforceReport, reinforce
from reinforced_data.attempts import Attempts
from reinforced_data.layout import Store, create_store
from reinforced_data.ranks import rank_and_world_size
from reinforced_data.reinforcing import stopped
from reinforced_data.stop_signals import SIGNALS, Interrupted

Launcher = Literal["in-process", "processes", "ray"]
_COUNT_SECONDS = 5.0
# So many deaths per process that no shard accounts for: then it is no shard.
_UNEXPLAINED = 3


def launch(
    work: RemoteWork,
    launcher: Launcher,
    *,
    workers: int | None = None,
    cluster: Cluster = Cluster(),  # noqa: B008 - frozen
    retry_quarantined: bool = False,
    progress: bool = True,
) -> ReinforceReport:
    """Write a reinforced dataset by a launcher; raises what `reinforce` raises.

    Args:
        work: what to write.
        launcher: which; `workers` is for processes, `cluster` for ray.
        workers: how many processes; one a GPU, or a core, when None.
        cluster: where Ray's workers come from.
        retry_quarantined: see `reinforce`.
        progress: whether to draw a progress bar on stderr.
    """
    if launcher == "ray":
        return reinforce_on_ray(
            work, cluster, retry_quarantined=retry_quarantined, progress=progress
        )
    if launcher == "processes":
        return reinforce_in_processes(
            work, workers, retry_quarantined=retry_quarantined, progress=progress
        )
    return _reinforce(work, retry_quarantined=retry_quarantined, progress=progress)


def reinforce_in_processes(
    work: RemoteWork,
    workers: int | None = None,
    *,
    retry_quarantined: bool = False,
    progress: bool = True,
) -> ReinforceReport:
    """Write a reinforced dataset with several processes; one that dies is replaced.

    Under accelerate, torchrun or srun, whose processes may not die without taking the others
    along, one such process per rank does the work and its launcher lives on.

    Raises:
        RuntimeError: processes die where no shard accounts for it.
        Interrupted: told to stop; processes end after their batch, the same call goes on.
    """
    if workers is not None and workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}")
    started = time.perf_counter()
    workers = workers or _usual_workers(work.device)
    work = work.from_anywhere()
    store = create_store(work.out, list(work.source))
    attempts = Attempts(store.storage)
    if retry_quarantined:
        attempts.forget_the_dead(attempts.quarantined())
    calls = [(work, place, workers) for place in range(workers)]
    with ShardsBar(progress) as bar, _stoppable(store):
        watch = _Watch(store, attempts, bar, workers)
        outcomes = run_each(_one_of_several, calls, again=watch.again, meanwhile=watch.count)
    reports = [outcome for outcome in outcomes if not isinstance(outcome, Died)]
    if not reports:
        raise RuntimeError(
            f"all {workers} processes died where no shard accounts for it (exit codes "
            f"{[died.exit_code for died in outcomes]}; -9 is often the system's, out of memory): "
            "the same command goes on, with fewer --workers it needs less memory"
        )
    latest = max(reports, key=lambda report: report.shards)
    return replace(
        latest,
        failed={name: why for report in reports for name, why in report.failed.items()},
        quarantined=latest.quarantined
        | {name: why for report in reports for name, why in report.quarantined.items()},
        shards_already_done=min(report.shards_already_done for report in reports),
        seconds=time.perf_counter() - started,
    )


def _reinforce(work: RemoteWork, *, retry_quarantined: bool, progress: bool) -> ReinforceReport:
    settings = {name: getattr(work.settings, name) for name in vars(work.settings)}
    return reinforce(
        work.source,
        work.out,
        teachers=work.load_teachers(),
        retry_quarantined=retry_quarantined,
        progress=progress,
        **settings,
    )


def _one_of_several(work: RemoteWork, place: int, workers: int) -> ReinforceReport:
    """Be one process; the environment says which part of the shards it begins with."""
    rank, world_size = rank_and_world_size()
    local = int(os.environ.get("LOCAL_RANK") or os.environ.get("SLURM_LOCALID") or 0)
    os.environ.pop("SLURM_ARRAY_TASK_ID", None)  # it is in the rank already
    os.environ.update(
        RANK=str(rank * workers + place),
        WORLD_SIZE=str(world_size * workers),
        LOCAL_RANK=str(local * workers + place),
    )
    torch.set_num_threads(max(1, int(usable_cores()) // workers))
    return _reinforce(work, retry_quarantined=False, progress=False)


def _usual_workers(device: str) -> int:
    if device == "cuda":
        return max(1, torch.cuda.device_count())
    return max(1, int(usable_cores()))


class _Watch:
    """What the parent does while its processes work: count, and judge deaths."""

    def __init__(self, store: Store, attempts: Attempts, bar: ShardsBar, workers: int) -> None:
        self._store, self._attempts, self._bar = store, attempts, bar
        self._workers = workers
        self._seen = self._dead()
        self._unexplained = 0
        self._counted = float("-inf")
        self._done = 0

    def again(self, died: Died) -> bool:
        """Replace a process, unless too many died without having begun a shard."""
        dead = self._dead()
        self._unexplained += not dead - self._seen
        self._seen |= dead
        self._bar.workers(self._workers, died=1)
        return self._unexplained <= _UNEXPLAINED * self._workers

    def count(self) -> None:
        """Look every few seconds how many shards are done."""
        if time.monotonic() - self._counted < _COUNT_SECONDS:
            return
        self._counted = time.monotonic()
        columns = self._store.columns()
        done = len(self._store.done_in_all(columns)) if columns else 0
        self._bar.shards_are_done(self._store.num_shards, done)
        self._bar.workers(self._workers)

    def _dead(self) -> set[tuple[Any, ...]]:
        found = [attempt for attempts in self._attempts.all().values() for attempt in attempts]
        return {(a.shard, a.place, a.worker, a.began) for a in found if a.dead}


@contextmanager
def _stoppable(store: Store) -> Iterator[None]:
    """Let every stop signal do what Ctrl-C does, once: the processes end after their batch."""

    def told(number: int, frame: FrameType | None) -> None:
        for other in SIGNALS:
            signal.signal(other, before[other])
        raise Interrupted("", 128 + number)

    before = {number: signal.signal(number, told) for number in SIGNALS}
    try:
        yield
    except Interrupted as error:
        columns = store.columns()
        done = len(store.done_in_all(columns)) if columns else 0
        signum = error.exit_code - 128
        raise stopped(store, signum, f"{done} of {store.num_shards}") from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
