"""`reinforce_on_ray`: stage 1 on a Ray cluster, one shard a task, actors that keep their teachers.

The store coordinates, as with every launcher; the driver only hands shards out, replaces workers
that die and grows with the cluster. So a driver that is killed loses nothing: the same command goes
on, on this cluster or another. Ray (`clip-distill[cluster]`) is imported when it is asked for.

Left out on purpose: Ray Data. Of a WebDataset it makes blocks that no longer know their shard, and
its own resume cannot tell what a killed driver has written (docs/launchers.md).
"""

import os
import time
import uuid
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from distill.ray_worker import Answer, ReinforceWorker
from distill.remote_work import RemoteWork
from distill.shards_bar import ShardsBar
from reinforced_data.attempts import Attempts, is_quarantined, quarantine_text
from reinforced_data.columns import Column
from reinforced_data.layout import Store, create_store
from reinforced_data.leftovers import remove_leftovers
from reinforced_data.reinforce_report import ReinforceReport, report_on
from reinforced_data.reinforcing import stopped
from reinforced_data.shard_walk import Tried, Walked
from reinforced_data.stop_signals import StopSignals

_LOOK_SECONDS = 0.5
_GROW_SECONDS = 5.0
_STOP_SECONDS = 60.0
# So many different shards fail before one is done: then it is not the shards.
_HOPELESS = 4


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Where the workers come from.

    Attributes:
        address: of a cluster, or `auto`; None takes RAY_ADDRESS, else this machine.
        cpus: CPUs of a worker.
        gpus: GPUs of a worker; a half lets two share one.
        max_workers: how many are asked for at once, whether there is room or not, which is what
            makes an autoscaler add machines. None: as many as there is room for, looked at again
            every few seconds.
    """

    address: str | None = None
    cpus: float = 1.0
    gpus: float = 0.0
    max_workers: int | None = None

    def __post_init__(self) -> None:
        """Refuse a worker of nothing."""
        if self.cpus <= 0 or self.gpus < 0 or (self.max_workers or 1) < 1:
            raise ValueError(
                f"a worker needs CPUs, and one worker at least, got cpus={self.cpus}, "
                f"gpus={self.gpus}, max_workers={self.max_workers}"
            )


def reinforce_on_ray(
    work: RemoteWork,
    cluster: Cluster = Cluster(),
    *,
    retry_quarantined: bool = False,
    progress: bool = True,
) -> ReinforceReport:
    """Write a reinforced dataset, or what is missing of it, on a Ray cluster.

    Raises:
        ValueError: Ray is not installed, or what `reinforce` raises.
        RuntimeError: workers die or fail wherever they begin.
        Interrupted: told to stop; workers end after their batch, the same call goes on.
    """
    ray = _import_ray()
    started = time.perf_counter()
    work = work.from_anywhere()
    store = create_store(work.out, list(work.source))
    attempts = Attempts(store.storage)
    if retry_quarantined:
        attempts.forget_the_dead(attempts.quarantined())
    ours = not ray.is_initialized()
    if ours:
        ray.init(
            address=cluster.address,
            include_dashboard=False,
            log_to_driver=bool(os.environ.get("DISTILL_DEBUG")),
            logging_level="error",
        )
    try:
        with StopSignals() as signals, ShardsBar(progress) as bar:
            driver = _Driver(ray, work, cluster, store, attempts, signals, bar)
            driver.run()
    finally:
        if ours:
            ray.shutdown()
    attempts.forget_the_dead(store.done_in_all(driver.columns))
    remove_leftovers(store)
    return report_on(
        store,
        driver.columns,
        already=driver.already,
        walked=driver.walked,
        seconds=time.perf_counter() - started,
    )


def _import_ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise ValueError(
            "--launcher ray needs Ray, which is not installed: pip install 'clip-distill[cluster]'"
        ) from error
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    return ray


@dataclass(eq=False)
class _Worker:
    """An actor, and the shard it is at; None while it loads its teachers."""

    name: str
    actor: Any
    shard: int | None = None


@dataclass
class _Driver:
    """Hands shards to workers until none is left."""

    ray: Any
    work: RemoteWork
    cluster: Cluster
    store: Store
    attempts: Attempts
    signals: StopSignals
    bar: ShardsBar
    columns: tuple[Column, ...] = ()
    already: int = 0
    walked: Walked = field(default_factory=Walked)
    left: deque[int] = field(default_factory=deque)
    idle: list[_Worker] = field(default_factory=list)
    busy: dict[Any, _Worker] = field(default_factory=dict)
    done: int = 0
    trouble: set[str] = field(default_factory=set)
    looked: float = float("-inf")
    room: int = 0

    def run(self) -> None:
        """Start one worker, learn from it which shards are left, then work."""
        try:
            self._start_worker()
            while self.busy or self.left:
                if self.signals.received:
                    self._stop()
                self._grow()
                self._hand_out()
                ready, _ = self.ray.wait(list(self.busy), num_returns=1, timeout=_LOOK_SECONDS)
                for answer in ready:
                    self._take(answer, self.busy.pop(answer))
        finally:
            for worker in [*self.idle, *self.busy.values()]:
                self.ray.kill(worker.actor)

    def _start_worker(self) -> None:
        name = f"ray-{uuid.uuid4().hex[:8]}"
        actor = self.ray.remote(ReinforceWorker).options(
            num_cpus=self.cluster.cpus,
            num_gpus=self.cluster.gpus,
            # One thread works; the other hears `stop`. Ray restarts nothing: we do, and count.
            max_concurrency=2,
            max_restarts=0,
        )
        worker = _Worker(name, actor.remote(name, self.work))
        self.busy[worker.actor.begin.remote()] = worker

    def _grow(self) -> None:
        """Have as many workers as there is use and room for."""
        if not self.columns:
            wanted = 1  # the first one finds the errors in the settings
        else:
            limit = self.cluster.max_workers or self._room()
            wanted = min(limit, len(self.left) + sum(w.shard is not None for w in self._all()))
        for _ in range(wanted - len(self._all())):
            self._start_worker()
        if self.columns:
            self.bar.workers(sum(w in self.idle or w.shard is not None for w in self._all()))

    def _all(self) -> list[_Worker]:
        return [*self.idle, *self.busy.values()]

    def _room(self) -> int:
        if time.monotonic() - self.looked > _GROW_SECONDS:
            found = self.ray.cluster_resources()
            self.looked, self.room = time.monotonic(), int(found.get("CPU", 0) / self.cluster.cpus)
            if self.cluster.gpus:
                self.room = min(self.room, int(found.get("GPU", 0) / self.cluster.gpus))
        return max(1, self.room)

    def _hand_out(self) -> None:
        while self.idle and self.left:
            worker, shard = self.idle.pop(), self.left.popleft()
            worker.shard = shard
            self.busy[worker.actor.shard.remote(shard)] = worker

    def _take(self, answer: Any, worker: _Worker) -> None:
        """Deal with an answer, or with the end of whoever should have given it."""
        try:
            said = self.ray.get(answer)
        except self.ray.exceptions.RayActorError:
            why = "the Ray worker died"
            self.attempts.declare_dead(worker.name, why)
            self._try_again(worker, RuntimeError(f"{worker.name}: {why}"))
            return
        except self.ray.exceptions.RayTaskError as error:
            self.ray.kill(worker.actor)
            cause = error.cause
            if isinstance(cause, ValueError | OSError):
                raise cause from None  # the user's, or the disk's: no other worker can do better
            self._try_again(worker, error)
            return
        shard, worker.shard = worker.shard, None
        self.idle.append(worker)
        if shard is None:
            self._learn(said)
        else:
            self._count(shard, said)

    def _learn(self, columns: tuple[Column, ...]) -> None:
        """Take over the columns from the first worker that knows them."""
        if self.columns:
            return
        self.columns = columns
        done = self.store.done_in_all(columns)
        self.already = len(done)
        self.left.extend(n for n in range(self.store.num_shards) if n not in done)
        self.bar.begin(self.store.num_shards, self.already)

    def _count(self, shard: int, answer: Answer) -> None:
        tried = answer.tried
        if tried is None or tried.outcome == "taken":
            self.left.append(shard)
            time.sleep(_LOOK_SECONDS)  # others are at it, and it is the last there is
            return
        self.done += 1
        self._leave_behind(shard, tried, answer.samples)

    def _leave_behind(self, shard: int, tried: Tried, samples: int = 0) -> None:
        self.walked.note(self.store.sources[shard], tried)
        self.bar.shard_done(samples, tried.said)

    def _try_again(self, worker: _Worker, error: Exception) -> None:
        """Give a shard back that its worker did not survive; enough of them are quarantined."""
        self.bar.workers(len(self._all()), died=1)
        shard = worker.shard
        if shard is not None:
            at_it = self.attempts.of(shard)
            if is_quarantined(at_it):
                said = quarantine_text(shard, self.store.sources[shard], at_it)
                self._leave_behind(shard, Tried("quarantined", said))
                return
            self.left.append(shard)
        elif not self.columns:
            self._start_worker()
        self.trouble.add(worker.name if worker.shard is None else f"shard {worker.shard}")
        if not self.done and len(self.trouble) >= _HOPELESS:
            raise RuntimeError(
                f"Ray workers die or fail wherever they begin, {len(self.trouble)} so far, and no "
                "shard was done: it is not a shard. Look at their memory, or run one shard with "
                f"--launcher in-process. The last one: {error}"
            ) from error

    def _stop(self) -> None:
        """Let every worker end after its batch, then say how far it came."""
        for worker in self._all():
            worker.actor.stop.remote()
        waiting = [answer for answer, worker in self.busy.items() if worker.shard is not None]
        if waiting:
            self.ray.wait(waiting, num_returns=len(waiting), timeout=_STOP_SECONDS)
        done = len(self.store.done_in_all(self.columns)) if self.columns else 0
        raise stopped(self.store, self.signals.received, f"{done} of {self.store.num_shards}")
