"""`simulate`: stage 1 on many workers that come and go, event by event, without doing it.

The order in which workers take shards is `ShardWalk`'s own; the rules of `walk_shards` around it
(places, putting off, coming back) are followed step by step, and requests are those of
request_counts.py. Simulated are: workers of different speed,
preemptions (a Poisson process per worker), what they lose, the time until a worker is back with its
models loaded, the tail in which several do one shard, and the listings that grow with the store.
Left out: the network's bandwidth, throttling by the store, data that breaks, people.
"""

import heapq
import math
import random
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field

from reinforced_data.planning.cluster import Cluster, Simulation
from reinforced_data.planning.request_counts import Requests, StoreShape
from reinforced_data.shard_walk import ShardWalk
from reinforced_data.store.attempts import PLACES
from reinforced_data.store.many_commits import THREADS

_LOOK_AGAIN_SECONDS = 0.5
# As long a worker that was killed still counts as being at its shard.
_SILENT_SECONDS = 600.0
_BUCKET_SECONDS = 60.0


def simulate(cluster: Cluster) -> Simulation:
    """Run the events until every worker has nothing left; the same seed gives the same run."""
    return _Run(cluster).result()


@dataclass
class _Worker:
    """One process; `walk` is None while it is away or starting."""

    number: int
    speed: float
    now: float = 0.0
    gone_at: float = math.inf
    turns: Iterator[int] | None = None
    walk: ShardWalk | None = None
    shard: int | None = None
    began: float = 0.0
    written: int = 0


@dataclass
class _Place:
    worker: int
    died: float = math.inf

    def dead(self, now: float) -> bool:
        return now - self.died > _SILENT_SECONDS


@dataclass
class _Tally:
    useful: float = 0.0
    redone: float = 0.0
    duplicate: float = 0.0
    paid: float = 0.0
    preemptions: int = 0
    duplicates: int = 0
    requests: Requests = field(default_factory=Requests)
    per_minute: dict[int, float] = field(default_factory=lambda: defaultdict(float))


class _Run:
    """The state of a simulation: a heap of (time, order, worker), one event a worker at most."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._random = random.Random(cluster.seed)
        self._shape = StoreShape(columns=cluster.columns)
        self._tally = _Tally()
        self._done: dict[int, float] = {}
        self._begun = False
        self._quarantined: set[int] = set()
        self._places: dict[int, list[_Place]] = defaultdict(list)
        self._out_of_work = math.inf
        self._last = 0.0
        self._heap: list[tuple[float, int, _Worker]] = []
        self._order = 0
        draw = self._random.gauss
        self._workers = [
            _Worker(number, math.exp(draw(0.0, cluster.spread)))
            for number in range(cluster.workers)
        ]

    def result(self) -> Simulation:
        for worker in self._workers:
            self._start(worker)
        while self._heap:
            now, _, worker = heapq.heappop(self._heap)
            worker.now = now
            if now >= worker.gone_at:
                self._preempt(worker)
            elif worker.walk is None:
                self._begin_walk(worker)
            elif worker.shard is not None:
                self._finish_shard(worker)
            else:
                self._next_shard(worker)
        return self._outcome()

    def _at(self, when: float, worker: _Worker) -> None:
        """Let a worker go on at this time, or be preempted before."""
        self._order += 1
        heapq.heappush(
            self._heap, (max(worker.now, min(when, worker.gone_at)), self._order, worker)
        )

    def _ask(self, worker: _Worker, requests: Requests, at_once: int = 1) -> None:
        """Send requests, so many at the same time."""
        self._tally.requests += requests
        left = requests.total
        end = worker.now + left * self._cluster.request_seconds / at_once
        while left > 0:
            minute = int(worker.now // _BUCKET_SECONDS)
            until = min(end, (minute + 1) * _BUCKET_SECONDS)
            share = left if until >= end else left * (until - worker.now) / (end - worker.now)
            self._tally.per_minute[minute] += share
            left, worker.now = left - share, until

    def _start(self, worker: _Worker) -> None:
        hours = self._cluster.preemption_hours
        worker.gone_at = math.inf
        if hours is not None:
            worker.gone_at = worker.now + self._random.expovariate(1 / (3600 * hours))
        self._tally.paid -= worker.now
        worker.walk, worker.shard, worker.written = None, None, 0
        self._at(worker.now + self._cluster.start_seconds, worker)

    def _begin_walk(self, worker: _Worker) -> None:
        start = self._shape.start(self._cluster.shards, len(self._done), begun=self._begun)
        self._begun = True
        self._ask(worker, start)
        worker.walk = ShardWalk(
            self._cluster.shards,
            self._done,
            self._random.getrandbits(32),
            look=lambda: self._look(worker),
            place=(worker.number, self._cluster.workers),
            clock=lambda: worker.now,
        )
        worker.turns = iter(worker.walk)
        self._at(worker.now, worker)

    def _look(self, worker: _Worker) -> dict[int, float]:
        self._out_of_work = min(self._out_of_work, worker.now)
        self._ask(worker, self._shape.look(len(self._done)))
        return self._done

    def _next_shard(self, worker: _Worker) -> None:
        """One turn of `walk_shards`."""
        assert worker.walk is not None and worker.turns is not None
        shard = next(worker.turns, None)
        if shard is None:
            self._leave(worker)
            return
        here = self._places.get(shard, [])
        elsewhere = len(self._places) - bool(here)
        self._ask(worker, self._shape.see_who_is_there(len(here), elsewhere))
        if sum(place.dead(worker.now) for place in here) >= PLACES:
            self._quarantined.add(shard)
        elif (here and worker.walk.first_round) or len(here) >= PLACES:
            worker.walk.put_off(shard)
            worker.now += 0.0 if worker.walk.first_round else _LOOK_AGAIN_SECONDS
        elif shard in self._done:
            self._ask(worker, self._shape.find_done(elsewhere))
            worker.walk.met_another()
        else:
            self._places[shard].append(_Place(worker.number))
            worker.shard, worker.began = shard, worker.now
            self._ask(worker, self._shape.write_shard(elsewhere))
            self._at(worker.now + self._cluster.shard_seconds / worker.speed, worker)
            return
        self._at(worker.now, worker)

    def _finish_shard(self, worker: _Worker) -> None:
        shard, spent = worker.shard, worker.now - worker.began
        assert shard is not None and worker.walk is not None
        worker.shard = None
        self._leave_place(worker, shard)
        if shard in self._done:
            self._tally.duplicate += spent
            self._tally.duplicates += 1
            worker.walk.met_another()
        else:
            self._tally.useful += spent
            self._done[shard] = worker.now
            worker.written += 1
            self._quarantined.discard(shard)
            dead = [place for place in self._places.get(shard, ()) if place.dead(worker.now)]
            for place in dead:
                self._places[shard].remove(place)
        self._at(worker.now, worker)

    def _leave_place(self, worker: _Worker, shard: int) -> None:
        here = self._places[shard]
        here.remove(next(p for p in here if p.worker == worker.number and p.died == math.inf))
        if not here:
            del self._places[shard]

    def _preempt(self, worker: _Worker) -> None:
        self._tally.preemptions += 1
        self._tally.paid += worker.now
        if worker.shard is not None:
            self._tally.redone += worker.now - worker.began
            self._leave_place(worker, worker.shard)
            if self._random.random() >= self._cluster.warned:
                self._places[worker.shard].append(_Place(worker.number, worker.now))
        away = self._cluster.restart_seconds
        worker.now += self._random.expovariate(1 / away) if away else 0.0
        self._start(worker)

    def _leave(self, worker: _Worker) -> None:
        self._ask(worker, self._shape.end(len(self._done)))
        self._ask(worker, self._shape.count(len(self._done), worker.written), THREADS)
        self._tally.paid += worker.now
        self._last = max(self._last, worker.now)

    def _outcome(self) -> Simulation:
        cluster, tally = self._cluster, self._tally
        finish = max(self._done.values(), default=0.0)
        speed = sum(worker.speed for worker in self._workers)
        return Simulation(
            finish_seconds=finish,
            last_worker_seconds=self._last,
            ideal_seconds=cluster.shards * cluster.shard_seconds / speed,
            tail_seconds=max(0.0, finish - self._out_of_work),
            worker_hours=tally.paid / 3600,
            useful_hours=tally.useful / 3600,
            redone_hours=tally.redone / 3600,
            duplicate_hours=tally.duplicate / 3600,
            preemptions=tally.preemptions,
            duplicates=tally.duplicates,
            quarantined=len(self._quarantined),
            requests=asdict(tally.requests),
            peak_requests_per_second=max(tally.per_minute.values()) / _BUCKET_SECONDS,
        )
