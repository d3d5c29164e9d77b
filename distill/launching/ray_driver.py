"""`launch_on_ray`: a job on a Ray cluster, one shard a task, actors that keep their models.

The store coordinates, as with every launcher; the driver only hands shards out, replaces workers
that die and grows with the cluster. So a driver that is killed loses nothing: the same command goes
on, on this cluster or another.

Left out on purpose: Ray Data. Of a WebDataset it makes blocks that no longer know their shard, and
its own resume cannot tell what a killed driver has written (docs/launchers.md).
"""

import time
import uuid
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any

from distill.launching.job import Job, Report
from distill.launching.ray_cluster import Cluster, connected, gone_nodes, workers_with_room
from distill.launching.ray_worker import Answer, Begun, ShardWorker
from distill.launching.shards_bar import ShardsBar
from reinforced_data.shard_walk import Tried, Walked
from reinforced_data.shard_work import stopped, waiting_in
from reinforced_data.stop_signals import StopSignals
from reinforced_data.store.attempts import Attempts, is_quarantined, job_of, quarantine_text
from reinforced_data.store.columns import Column
from reinforced_data.store.layout import Store

_LOOK_SECONDS = 0.5
_GROW_SECONDS = 5.0
_STOP_SECONDS = 60.0
# So many workers or shards in a row end badly, beyond the workers there are: then it is neither.
_HOPELESS = 4
# So many machines fail to read or write a shard: then it is not the machine.
_BROKEN = 3


def launch_on_ray(
    job: Job[Report],
    cluster: Cluster = Cluster(),  # noqa: B008 - frozen
    max_workers: int | None = None,
    *,
    retry_quarantined: bool = False,
    progress: bool = True,
) -> Report:
    """Do a job, or what is missing of it, on a Ray cluster.

    Args:
        job: what to do, with a source and a store that every machine sees.
        cluster: where the workers come from.
        max_workers: how many are asked for at once, whether there is room or not, which is what
            makes an autoscaler add machines. None: as many as there is room for, looked at again
            every few seconds.
        retry_quarantined: see `reinforce`.
        progress: whether to draw a progress bar on stderr.

    Raises:
        ValueError: as `connected`, or as the job's `make`.
        OSError: a shard cannot be read or written, on three machines.
        RuntimeError: workers die or fail wherever they begin.
        Interrupted: told to stop; workers end after their batch, the same call goes on.
    """
    started = time.perf_counter()
    with ShardsBar(job.verb, progress) as bar:
        bar.waiting("connecting to Ray")
        with connected(cluster) as ray, StopSignals() as signals:
            job = job.from_anywhere()
            store = job.open()
            # Of no columns, until the first worker says which they are.
            attempts = Attempts(store.storage, job_of(()))
            driver = _Driver(ray, job, cluster, max_workers, store, attempts, signals, bar)
            driver.retry_quarantined = retry_quarantined
            driver.run()
    return job.conclude(
        store, driver.columns, already=driver.already, walked=driver.walked, started=started
    )


@dataclass(eq=False)
class _Worker:
    """An actor, and the shard it is at; None while it waits for room or loads its models.

    Attributes:
        node: Ray's name of its machine, once it has begun.
    """

    name: str
    actor: Any
    shard: int | None = None
    node: str = ""


@dataclass
class _Driver:
    """Hands shards to workers until none is left."""

    ray: Any
    job: Job[Any]
    cluster: Cluster
    max_workers: int | None
    store: Store
    attempts: Attempts
    signals: StopSignals
    bar: ShardsBar
    retry_quarantined: bool = False
    columns: tuple[Column, ...] = ()
    already: int = 0
    walked: Walked = field(default_factory=Walked)
    left: deque[int] = field(default_factory=deque)
    put_off: set[int] = field(default_factory=set)
    idle: list[_Worker] = field(default_factory=list)
    busy: dict[Any, _Worker] = field(default_factory=dict)
    trouble: set[str] = field(default_factory=set)
    broken: Counter[int] = field(default_factory=Counter)
    buried: dict[str, tuple[str, str]] = field(default_factory=dict)
    looked: float = float("-inf")
    room: int = 0

    def run(self) -> None:
        """Start one worker, learn from it which shards are left, then work."""
        try:
            while not self.columns or self.left or self._working():
                if self.signals.received:
                    self._stop()
                self._pardon()
                self._grow()
                self._hand_out()
                ready, _ = self.ray.wait(list(self.busy), num_returns=1, timeout=_LOOK_SECONDS)
                for answer in ready:
                    self._take(answer, self.busy.pop(answer))
        finally:
            self._pardon()
            for worker in self._all():
                self.ray.kill(worker.actor)

    def _start_worker(self) -> None:
        name = f"ray-{uuid.uuid4().hex[:8]}"
        actor = self.ray.remote(ShardWorker).options(
            name=name,
            num_cpus=self.cluster.cpus,
            num_gpus=self.cluster.gpus,
            # One thread works; the other hears `stop`. Ray restarts nothing: we do, and count.
            max_concurrency=2,
            max_restarts=0,
        )
        worker = _Worker(name, actor.remote(name, self.job))
        self.busy[worker.actor.begin.remote()] = worker

    def _grow(self) -> None:
        """Have as many workers as there is use and room for."""
        if not self.columns:
            wanted = 1  # the first one finds the errors in the settings
            there = workers_with_room(self.ray, self.cluster)
            asked = f"room for {self.cluster.wishes()}"
            self.bar.waiting("loading the models" if there else f"waiting for {asked}")
        else:
            limit = self.max_workers or self._room()
            wanted = min(limit, len(self.left) + self._working())
            self.bar.workers(len(self.idle) + self._working())
        for _ in range(wanted - len(self._all())):
            self._start_worker()

    def _all(self) -> list[_Worker]:
        return [*self.idle, *self.busy.values()]

    def _working(self) -> int:
        return sum(worker.shard is not None for worker in self.busy.values())

    def _room(self) -> int:
        if time.monotonic() - self.looked > _GROW_SECONDS:
            self.looked = time.monotonic()
            self.room = workers_with_room(self.ray, self.cluster)
        return max(1, self.room)

    def _hand_out(self) -> None:
        while self.idle and self.left:
            worker, shard = self.idle.pop(), self.left.popleft()
            worker.shard = shard
            self.busy[worker.actor.shard.remote(shard, shard in self.put_off)] = worker

    def _take(self, answer: Any, worker: _Worker) -> None:
        """Deal with an answer, or with the end of whoever should have given it."""
        try:
            said = self.ray.get(answer)
        except self.ray.exceptions.RayTaskError as error:
            self.ray.kill(worker.actor)
            self._refuse(worker, error.cause)
            self._try_again(worker, error)
        except self.ray.exceptions.RayError as error:  # dead, or out of memory, or out of reach
            self.ray.kill(worker.actor)
            self._bury(worker, error)
        else:
            shard, worker.shard = worker.shard, None
            self.idle.append(worker)
            if shard is None:
                worker.node = said.node
                self._learn(said)
            else:
                self._count(shard, said)

    def _learn(self, begun: Begun) -> None:
        """Take over the columns from the first worker that knows them."""
        if self.columns:
            return
        self.columns = begun.columns
        self.attempts = Attempts(self.store.storage, job_of(begun.columns))
        if self.retry_quarantined:
            self.attempts.forget_the_dead(self.attempts.quarantined())
        done = self.store.done_in_all(begun.columns)
        self.already = len(done)
        left_out = waiting_in(self.store, begun.needs) | done
        self.left.extend(n for n in range(self.store.num_shards) if n not in left_out)
        self.bar.begin(self.already + len(self.left), self.already)

    def _count(self, shard: int, answer: Answer) -> None:
        tried = answer.tried
        self.walked.counts.update(answer.counts)
        for warning in answer.warnings:
            self.bar.warn(warning)
        if tried is None or tried.outcome == "taken":
            self.left.append(shard)
            if shard in self.put_off:
                time.sleep(_LOOK_SECONDS)  # others are at it, and it is the last there is
            self.put_off.add(shard)
            return
        self.trouble.clear()
        self.bar.samples(answer.samples)
        self._leave_behind(shard, tried)

    def _leave_behind(self, shard: int, tried: Tried) -> None:
        self.walked.note(shard, self.store.sources[shard], tried)
        self.bar.one_shard_done()
        if tried.said is not None:
            self.bar.left_out(tried.said)

    def _refuse(self, worker: _Worker, cause: BaseException | None) -> None:
        """Raise what is the user's; and what is the disk's, when other machines have it too."""
        if isinstance(cause, OSError) and worker.shard is not None:
            self.broken[worker.shard] += 1
            if self.broken[worker.shard] < _BROKEN:
                return
        if isinstance(cause, ValueError | OSError):
            raise cause from None

    def _bury(self, worker: _Worker, error: Exception) -> None:
        """Write down that a worker is dead, unless it went with its machine."""
        machine = getattr(error, "preempted", False) or "node has died" in str(error)
        if machine or worker.node in gone_nodes(self.ray):
            self.attempts.withdraw(worker.name)
            self.bar.died(f"{worker.name}, with its machine; its shard goes to another")
            if worker.shard is not None:
                self.left.append(worker.shard)
            return
        why = f"the Ray worker died ({type(error).__name__})"
        self.attempts.declare_dead(worker.name, why)
        self.buried[worker.name] = worker.node, why
        self._try_again(worker, error)

    def _pardon(self) -> None:
        """Take deaths back that were their machine's: on its way out it ends its processes first.

        A shard that was quarantined meanwhile stays so until the next call.
        """
        gone = gone_nodes(self.ray) if self.buried else set()
        for name, (node, why) in list(self.buried.items()):
            if node in gone:
                self.attempts.withdraw(name, why)
                self.bar.died(f"{name}: its machine went too, which counts against no shard")
                del self.buried[name]

    def _try_again(self, worker: _Worker, error: Exception) -> None:
        """Give a shard back that its worker did not survive; enough of them are quarantined."""
        self.bar.died(f"{worker.name}; another takes its place")
        shard = worker.shard
        if shard is not None:
            at_it = self.attempts.of(shard)
            if is_quarantined(at_it):
                said = quarantine_text(shard, self.store.sources[shard], at_it)
                self._leave_behind(shard, Tried("quarantined", said))
                return
            self.left.append(shard)
            self.put_off.add(shard)
        self.trouble.add(worker.name if shard is None else f"shard {shard}")
        if len(self.trouble) >= _HOPELESS + self._working():
            raise RuntimeError(
                f"Ray workers die or fail wherever they begin, {len(self.trouble)} in a row: it "
                "is not a shard. Look at their memory, or run one shard with --launcher "
                f"in-process. The last one: {error}"
            ) from error

    def _stop(self) -> None:
        """Let every worker end after its batch, then say how far it came."""
        for worker in self._all():
            worker.actor.stop.remote()
        waiting = [answer for answer, worker in self.busy.items() if worker.shard is not None]
        if waiting:
            self.ray.wait(waiting, num_returns=len(waiting), timeout=_STOP_SECONDS)
        raise stopped(self.store, self.columns, self.signals.received)
