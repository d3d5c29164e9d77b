"""What simulation.py simulates, and what comes of it."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """What is simulated.

    Attributes:
        shards: of the source.
        shard_seconds: that a worker of ordinary speed needs for one.
        workers: how many; all start together.
        columns: of the store.
        spread: standard deviation of the logarithm of the workers' speeds.
        preemption_hours: mean time between two preemptions of one worker; None: never.
        warned: share of preemptions that come as SIGTERM: the shard's work is lost all the same,
            but the place at it is given back.
        restart_seconds: mean time until a preempted worker is back, exponential.
        start_seconds: to load the models.
        request_seconds: one request, or one page of a listing.
        seed: of everything random.
    """

    shards: int
    shard_seconds: float | int
    workers: int
    columns: int
    spread: float | int = 0.1
    preemption_hours: float | int | None = None
    warned: float | int = 0.0
    restart_seconds: float | int = 300.0
    start_seconds: float | int = 60.0
    request_seconds: float | int = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        for name in ("shards", "shard_seconds", "workers", "columns"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")
        if self.preemption_hours is not None and not self.preemption_hours > 0:
            raise ValueError(f"preemption_hours must be above 0, got {self.preemption_hours}")
        for name in ("spread", "restart_seconds", "start_seconds", "request_seconds"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be below 0, got {getattr(self, name)}")
        if not 0 <= self.warned <= 1:
            raise ValueError(f"warned must be from 0 to 1, got {self.warned}")


@dataclass(frozen=True, kw_only=True)
class Simulation:
    """What came of it.

    Attributes:
        finish_seconds: when the last shard was committed.
        last_worker_seconds: when the last worker had nothing left to do.
        ideal_seconds: work / (workers' speeds), without starting, failing or waiting.
        tail_seconds: from when the first worker found nothing of its own left.
        worker_hours: all that was paid for, starts and waiting included.
        useful_hours: in shards that were committed first by who did them.
        redone_hours: lost to preemptions.
        duplicate_hours: in shards that another had committed meanwhile.
        preemptions: how many.
        duplicates: shards done for nothing.
        quarantined: shards that three workers were killed at, without fault of theirs.
        requests: to the store, by kind.
        peak_requests_per_second: over the busiest minute.
    """

    finish_seconds: float | int
    last_worker_seconds: float | int
    ideal_seconds: float | int
    tail_seconds: float | int
    worker_hours: float | int
    useful_hours: float | int
    redone_hours: float | int
    duplicate_hours: float | int
    preemptions: int
    duplicates: int
    quarantined: int
    requests: dict[str, int]
    peak_requests_per_second: float | int

    @property
    def redone(self) -> float:
        """Share of the useful work that was done again after a preemption."""
        return self.redone_hours / self.useful_hours

    @property
    def duplicated(self) -> float:
        """Share of the useful work that was done by two."""
        return self.duplicate_hours / self.useful_hours

    @property
    def mean_requests_per_second(self) -> float:
        """Until the last worker ends."""
        return sum(self.requests.values()) / self.last_worker_seconds

    def to_json(self) -> dict[str, Any]:
        """Return JSON values."""
        names = ("redone", "duplicated", "mean_requests_per_second")
        follows = {name: getattr(self, name) for name in names}
        return {"kind": "simulation", **asdict(self), **follows}
