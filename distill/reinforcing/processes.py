"""`reinforce_in_processes`: stage 1 in several processes of this machine; a dead one is replaced.

Every process would write the whole store alone; whoever commits a shard first saves the others
the work. So a process that dies, or the launcher, costs nothing but the shard it was at.
"""

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from distill.doctor import usable_cores
from distill.reinforcing.reinforcement import Reinforcement
from distill.reinforcing.shards_bar import ShardsBar
from distill.worker_processes import Died, run_each
from reinforced_data.ranks import processes_here, rank_and_world_size
from reinforced_data.reinforce_report import ReinforceReport
from reinforced_data.reinforcing import conclude, stopped
from reinforced_data.shard_walk import Walked, walk_shards
from reinforced_data.stop_signals import Interrupted, StopSignals
from reinforced_data.store.attempts import Attempts, job_of, read_attempts
from reinforced_data.store.columns import Column
from reinforced_data.store.layout import Store, create_store

# At the most often; more seldom where a look takes long.
_LOOK_SECONDS = 2.0
# So many deaths a process that no shard accounts for: then it is no shard.
_UNEXPLAINED = 3
# So many shards kill before one is done: then it is not the shards.
_HOPELESS = 4


def reinforce_in_processes(
    work: Reinforcement,
    workers: int | None = None,
    *,
    retry_quarantined: bool = False,
    progress: bool = True,
) -> ReinforceReport:
    """Write a reinforced dataset with several processes.

    Under accelerate, torchrun or srun, whose processes may not die without taking the others
    along, one such process per rank does the work and its launcher lives on.

    Args:
        work: what to write; a function that makes the teachers must be importable by name.
        workers: how many; one a GPU, or a core, when None.
        retry_quarantined: see `reinforce`.
        progress: whether to draw a progress bar on stderr.

    Raises:
        RuntimeError: processes die wherever they begin.
        Interrupted: told to stop; processes end after their batch, the same call goes on.
        Whatever one of the processes raised; what is committed is whole.
    """
    started = time.perf_counter()
    workers = workers or _usual_workers(work.device)
    work = work.from_anywhere()
    store = create_store(work.out, list(work.source))
    # Who died before this call is forgotten; who dies in it is not, whatever begins after that.
    forgotten = time.time() if retry_quarantined else None
    calls = [(work, place, workers, forgotten) for place in range(workers)]
    with ShardsBar(progress) as bar, StopSignals() as signals:
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
            raise stopped(store, signum, f"{watch.done()} of {store.num_shards}") from None
    if all(isinstance(outcome, Died) for outcome in outcomes):
        raise RuntimeError(watch.despair(outcomes))
    walked = Walked()
    for outcome in outcomes:
        if isinstance(outcome, Walked):
            walked.failed.update(outcome.failed)
            walked.quarantined.update(outcome.quarantined)
            walked.written.update(outcome.written)
    return conclude(store, watch.columns, already=watch.already, walked=walked, started=started)


def _usual_workers(device: str) -> int:
    if device == "cuda":
        return max(1, torch.cuda.device_count())
    return max(1, int(usable_cores()))


@dataclass(frozen=True, kw_only=True)
class _Passed:
    """What a process tells when it is done with a shard."""

    samples: int
    left_out: str | None


def _one_of_several(
    tell: Callable[[object], None],
    work: Reinforcement,
    place: int,
    workers: int,
    forgotten: float | None,
) -> Walked:
    """Be one process; the environment says which part of the shards it begins with."""
    _take_rank(place, workers)
    torch.set_num_threads(max(1, int(usable_cores()) // workers))
    made = work.make()
    attempts = Attempts(made.store.storage, job_of(made.plan.columns))
    if forgotten is not None:
        attempts.forget_the_dead(attempts.quarantined(), began_before=forgotten)
    tell(made.plan.columns)
    samples = 0

    def count(size: int) -> None:
        nonlocal samples
        samples += 1

    def passed(shard: int, left_out: str | None) -> None:
        nonlocal samples
        tell(_Passed(samples=samples, left_out=left_out))
        samples = 0

    with StopSignals() as signals:

        def stop_if_told() -> None:
            if signals.received:
                raise Interrupted("told to stop", 128 + signals.received)

        return walk_shards(
            made.store,
            attempts,
            made.done(),
            lambda shard, between: made.shard(shard, between, count),
            stop_if_told=stop_if_told,
            left_behind=passed,
            look=made.done,
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
        self._store, self._bar, self._signals, self._workers = store, bar, signals, workers
        self._before = self._dead()
        self._seen = self._before
        self._unexplained = 0
        self._next_look = -math.inf
        self._told: set[str] = set()

    def hear(self, said: tuple[Column, ...] | _Passed) -> None:
        """Take over the columns from the first process that knows them; count samples."""
        if isinstance(said, _Passed):
            self._bar.samples(said.samples)
            if said.left_out is not None and said.left_out not in self._told:
                self._told.add(said.left_out)
                self._bar.left_out(said.left_out)
        elif not self.columns:
            self.columns = said
            self.already = self.done()
            self._bar.begin(self._store.num_shards, self.already)
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
            f"all {self._workers} processes that reinforced {self._store.name} died wherever they "
            f"began (exit codes {', '.join(str(each.exit_code) for each in died)}; -9 is often "
            "the system's, out of memory): what is committed is whole and the same command goes "
            "on, with fewer --workers it needs less memory"
        )

    def _dead(self) -> set[tuple[int, str, float]]:
        job = job_of(self.columns) if self.columns else None
        found = [a for a in read_attempts(self._store.storage) if job in (None, a.job)]
        return {(a.shard, a.worker, a.began) for a in found if a.dead}
