"""`launch_in_processes`: a job in several processes of this machine; a dead one is replaced.

Every process would write the whole store alone; whoever commits a shard first saves the others
the work. So a process that dies, or the launcher, costs nothing but the shard it was at.
"""

import math
import os
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from distill.doctor import usable_cores
from distill.launching.job import Job, Report
from distill.launching.shards_bar import ShardsBar
from distill.worker_processes import Died, run_each
from reinforced_data.ranks import processes_here, rank_and_world_size
from reinforced_data.shard_walk import Walked, walk_shards
from reinforced_data.shard_work import Counts, done_in, stopped, waiting_in
from reinforced_data.stop_signals import Interrupted, StopSignals
from reinforced_data.store.attempts import Attempts, job_of, read_attempts
from reinforced_data.store.columns import Column
from reinforced_data.store.layout import Store

# At the most often; more seldom where a look takes long.
_LOOK_SECONDS = 2.0
# So many deaths a process that no shard accounts for: then it is no shard.
_UNEXPLAINED = 3
# So many shards kill before one is done: then it is not the shards.
_HOPELESS = 4


def launch_in_processes(
    job: Job[Report],
    workers: int | None = None,
    *,
    retry_quarantined: bool = False,
    progress: bool = True,
) -> Report:
    """Do a job, or what is missing of it, with several processes.

    Under accelerate, torchrun or srun, whose processes may not die without taking the others
    along, one such process per rank does the work and its launcher lives on.

    Args:
        job: what to do; a function that makes models must be importable by name.
        workers: how many; one a GPU, or a core, when None.
        retry_quarantined: see `reinforce`.
        progress: whether to draw a progress bar on stderr.

    Raises:
        RuntimeError: processes die wherever they begin.
        Interrupted: told to stop; processes end after their batch, the same call goes on.
        Whatever one of the processes raised; what is committed is whole.
    """
    started = time.perf_counter()
    workers = workers or _usual_workers(job.device)
    job = job.from_anywhere()
    store = job.open()
    # Who died before this call is forgotten; who dies in it is not, whatever begins after that.
    forgotten = time.time() if retry_quarantined else None
    calls = [(job, place, workers, forgotten) for place in range(workers)]
    with ShardsBar(job.verb, progress) as bar, StopSignals() as signals:
        watch = _Watch(store, bar, signals, workers)
        try:
            outcomes = run_each(
                _one_of_several,
                calls,
                heard=watch.hear,
                again=watch.judge,
                meanwhile=watch.look,
            )
        except Interrupted as told:  # by one of them when it was told alone
            signum = signals.received or told.exit_code - 128
            raise stopped(store, watch.columns, signum) from None
    if all(isinstance(outcome, Died) for outcome in outcomes):
        raise RuntimeError(watch.despair(outcomes))
    walked = Walked(counts=watch.counts)
    for outcome in outcomes:
        if isinstance(outcome, Walked):
            walked.failed.update(outcome.failed)
            walked.quarantined.update(outcome.quarantined)
            walked.written.update(outcome.written)
    return job.conclude(store, watch.columns, already=watch.already, walked=walked, started=started)


def _usual_workers(device: str) -> int:
    if device == "cuda":
        return max(1, torch.cuda.device_count())
    if device.startswith("cuda:"):  # that one alone
        return 1
    return max(1, int(usable_cores()))


@dataclass(frozen=True, kw_only=True)
class _Begun:
    """What a process tells when it has loaded everything; see `ShardWork`."""

    columns: tuple[Column, ...]
    needs: tuple[Column, ...]


@dataclass(frozen=True, kw_only=True)
class _Passed:
    """What a process tells when it is done with a shard; of what it counts, what is new."""

    samples: int
    counts: Counts
    left_out: str | None


@dataclass(frozen=True)
class _Warning:
    """What a process tells at once."""

    said: str


def _one_of_several(
    tell: Callable[[object], None],
    job: Job[Any],
    place: int,
    workers: int,
    forgotten: float | None,
) -> Walked:
    """Be one process; the environment says which part of the shards it begins with."""
    _take_rank(place, workers)
    torch.set_num_threads(max(1, int(usable_cores()) // workers))
    work = job.make()
    work.warn_by(lambda said: tell(_Warning(said)))
    attempts = Attempts(work.store.storage, job_of(work.columns))
    if forgotten is not None:
        attempts.forget_the_dead(attempts.quarantined(), began_before=forgotten)
    tell(_Begun(columns=work.columns, needs=work.needs))
    samples = 0

    def count(size: int) -> None:
        nonlocal samples
        samples += 1

    def passed(shard: int, left_out: str | None) -> None:
        nonlocal samples
        tell(_Passed(samples=samples, counts=work.take_counts(), left_out=left_out))
        samples = 0

    with StopSignals() as signals:

        def stop_if_told() -> None:
            if signals.received:
                raise Interrupted("told to stop", 128 + signals.received)

        return walk_shards(
            work,
            attempts,
            done_in(work),
            waiting_in(work.store, work.needs),
            on_sample=count,
            stop_if_told=stop_if_told,
            left_behind=passed,
        )


def _take_rank(place: int, workers: int) -> None:
    """Number this process among those of all ranks that the launcher may be one of."""
    rank, world_size = rank_and_world_size()
    local = int(os.environ.get("LOCAL_RANK") or os.environ.get("SLURM_LOCALID") or 0)
    here = processes_here()
    os.environ.pop("SLURM_ARRAY_TASK_ID", None)  # it is in the rank already
    os.environ.update(
        RANK=str(rank * workers + place),
        WORLD_SIZE=str(world_size * workers),
        LOCAL_RANK=str(local * workers + place),
        LOCAL_WORLD_SIZE=str(here * workers),
    )


class _Watch:
    """What the launcher does while its processes work: listen, count, and judge deaths."""

    def __init__(self, store: Store, bar: ShardsBar, signals: StopSignals, workers: int) -> None:
        self.columns: tuple[Column, ...] = ()
        self.already = 0
        self.counts: Counts = Counter()
        self._store, self._bar, self._signals, self._workers = store, bar, signals, workers
        self._before = self._dead()
        self._seen = self._before
        self._unexplained = 0
        self._next_look = -math.inf
        self._told: set[str] = set()

    def hear(self, said: _Begun | _Passed | _Warning) -> None:
        """Take over the columns from the first process that knows them; count; warn."""
        if isinstance(said, _Warning):
            self._bar.warn(said.said)
        elif isinstance(said, _Passed):
            self.counts.update(said.counts)
            self._bar.samples(said.samples)
            if said.left_out is not None and said.left_out not in self._told:
                self._told.add(said.left_out)
                self._bar.left_out(said.left_out)
        elif not self.columns:
            self.columns = said.columns
            done = self._store.done_in_all(said.columns)
            self.already = len(done)
            waiting = waiting_in(self._store, said.needs) - done
            self._bar.begin(self._store.num_shards - len(waiting), self.already)
            self._bar.workers(self._workers)

    def look(self) -> None:
        """End the work when told to; every few seconds, count what is done."""
        if self._signals.received:
            raise Interrupted("told to stop", 128 + self._signals.received)
        if self.columns and time.monotonic() >= self._next_look:
            began = time.monotonic()
            self._bar.shards_done(self.done())
            now = time.monotonic()
            self._next_look = now + max(_LOOK_SECONDS, 10 * (now - began))

    def judge(self, died: Died) -> bool:
        """Replace a process, unless they die wherever they begin."""
        dead = self._dead()
        self._unexplained += not dead - self._seen
        self._seen = self._seen | dead
        shards = {shard for shard, _, _ in self._seen - self._before}
        hopeless = len(shards) >= _HOPELESS and self.done() == self.already
        again = not hopeless and self._unexplained <= _UNEXPLAINED * self._workers
        then = "another takes its place" if again else "nobody takes its place"
        self._bar.died(f"a process (exit code {died.exit_code}); {then}")
        return again

    def done(self) -> int:
        """How many shards all columns have."""
        return len(self._store.done_in_all(self.columns)) if self.columns else 0

    def despair(self, died: list[Died]) -> str:
        """Say that nobody is left."""
        return (
            f"all {self._workers} processes at work on {self._store.name} died wherever they "
            f"began (exit codes {', '.join(str(each.exit_code) for each in died)}; -9 is often "
            "the system's, out of memory): what is committed is whole and the same command goes "
            "on, with fewer --workers it needs less memory"
        )

    def _dead(self) -> set[tuple[int, str, float]]:
        job = job_of(self.columns) if self.columns else None
        found = [a for a in read_attempts(self._store.storage) if job in (None, a.job)]
        return {(a.shard, a.worker, a.began) for a in found if a.dead}
