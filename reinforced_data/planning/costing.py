"""What a reinforced dataset will cost before it is made, from measurements of its source.

Per sample, in seconds, with K views, u different captions, C cores a worker and T teachers:

    host    h = prepare + write + shard / (samples per shard) [+ the towers' own, on a CPU]
    device  d = sum over T of (K * image + u * text)
    worker  s = max(h / C, d + write)        whichever it waits for, longer
    wall    = N * s / W + start              W workers, each loading its models once
    device hours = N * d / 3600              by teacher; on a CPU these are core hours
    worker hours = N * s / 3600 + W * start / 3600;  cost = worker hours * price
    bytes   = sum over columns of (N * per sample + shards * per shard + once) + sources.json

Online distillation runs the teachers in every step: one view and one caption per sample, that is

    o = sum over T of (image + text)         device seconds, or core seconds / C on a CPU

The store pays after s / o epochs: with a fast decoder about K of them, all students that learn
from it counted together. Left out: the student's own time, which both ways have; reading rows back,
which is little beside decoding the picture; the network; rent for the disk; preemptions, which
simulation.py has.
"""

import math
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from reinforced_data.codecs.product_quantization import NUM_BYTES
from reinforced_data.planning.disk_room import DiskRoom, disk_room
from reinforced_data.planning.probing import Measurements
from reinforced_data.planning.tower_rates import TowerRates

_CODEBOOK_ROWS = 16_384
# Two standard errors: nineteen times in twenty.
_SURE = 2.0
# What a file wastes at most.
_BLOCK = 4096


@dataclass(frozen=True, kw_only=True)
class ColumnCost:
    """A column's bytes: per sample, in all, and how far `bytes` may be off (two errors)."""

    name: str
    kind: str
    bytes_per_sample: float
    bytes: float
    bytes_error: float


@dataclass(frozen=True, kw_only=True)
class TeacherCost:
    """A teacher's time: device hours (core hours on a CPU) and rates of one device (core)."""

    teacher: str
    device: str
    hours: float
    views_per_second: float
    texts_per_second: float


@dataclass(frozen=True, kw_only=True)
class StorePlan:
    """A store that is not there yet; the module's text has the formulas.

    Attributes:
        source: the first shard.
        samples: N.
        samples_from: "counted", "estimated" from the bytes of some shards, or "given".
        samples_error: one standard error of `samples`, as a share.
        shards: source shards.
        listing_bytes: of sources.json per shard.
        workers: W; each has one device and `cores` cores.
        cores: C.
        price_per_hour: of one worker, in any currency; None when not given.
        start_seconds: what a worker needs to load its models.
        measured: what the probe found.
    """

    source: str
    samples: int
    samples_from: str
    samples_error: float
    shards: int
    listing_bytes: float
    workers: int
    cores: float | int
    price_per_hour: float | int | None
    start_seconds: float
    measured: Measurements

    @property
    def columns(self) -> tuple[ColumnCost, ...]:
        """Bytes by column."""
        return tuple(
            ColumnCost(
                name=column.name,
                kind=column.kind,
                bytes_per_sample=column.per_sample + column.per_shard * self.shards / self.samples,
                bytes=self.samples * column.per_sample
                + self.shards * column.per_shard
                + column.once,
                bytes_error=_SURE
                * self.samples
                * math.hypot(column.error, self.samples_error * column.per_sample),
            )
            for column in self.measured.columns
        )

    @property
    def bytes(self) -> float:
        """Of all files of the store."""
        return sum(column.bytes for column in self.columns) + self.shards * self.listing_bytes

    @property
    def bytes_error(self) -> float:
        """How far `bytes` may be off; the count of samples is wrong for all columns alike."""
        total = sum(column.per_sample for column in self.measured.columns)
        apart = math.hypot(*(column.error for column in self.measured.columns))
        return _SURE * self.samples * math.hypot(apart, self.samples_error * total)

    @property
    def files(self) -> int:
        """A data file and a record per column and shard, and a few."""
        columns = self.measured.columns
        return 2 * self.shards * len(columns) + len(columns) + 1

    @property
    def on_cpu(self) -> bool:
        """Whether the towers need the cores that decode."""
        return any(tower.device == "cpu" for tower in self.measured.towers)

    @property
    def host_seconds(self) -> float:
        """h: core seconds per sample."""
        found = self.measured
        shard = found.shard_seconds * self.shards / self.samples
        own = found.prepare_seconds + found.write_seconds + shard
        for tower in found.towers if self.on_cpu else ():
            own += found.num_views * tower.image_core_seconds
            own += found.different_texts * tower.text_core_seconds
        return own

    @property
    def device_seconds(self) -> float:
        """d: seconds of the towers per sample."""
        found = self.measured
        return sum((_tower_seconds(found, tower) for tower in found.towers), start=0.0)

    @property
    def worker_seconds(self) -> float:
        """s: seconds of one worker per sample."""
        return max(self.host_seconds / self.cores, self._chain_seconds)

    @property
    def _chain_seconds(self) -> float:
        """What one thread does, teachers and writing, however many cores there are."""
        return self.device_seconds + self.measured.write_seconds

    @property
    def waits_for(self) -> str:
        """What would have to be faster: "cores" or "teachers"."""
        return "cores" if self.host_seconds / self.cores > self._chain_seconds else "teachers"

    @property
    def each_start_seconds(self) -> float:
        """What each worker does first: load its models, fit codebooks where it is the first."""
        found, fit = self.measured, 0.0
        if found.codec in NUM_BYTES:
            views = min(_CODEBOOK_ROWS, self.samples * found.num_views)
            texts = min(_CODEBOOK_ROWS, self.samples * found.different_texts)
            fit = sum(views * t.image_seconds + texts * t.text_seconds for t in found.towers)
            fit += views * found.prepare_seconds / found.num_views
        return self.start_seconds + fit

    @property
    def wall_seconds(self) -> float:
        """From start to end, whole shards to each worker; nobody fails."""
        turns = math.ceil(self.shards / self.workers)
        return turns * self.samples / self.shards * self.worker_seconds + self.each_start_seconds

    @property
    def worker_hours(self) -> float:
        """What is paid for."""
        return (self.samples * self.worker_seconds + self.workers * self.each_start_seconds) / 3600

    @property
    def cost(self) -> float | int | None:
        """In the currency of the price."""
        return None if self.price_per_hour is None else self.worker_hours * self.price_per_hour

    @property
    def teachers(self) -> tuple[TeacherCost, ...]:
        """Time by teacher."""
        found = self.measured
        return tuple(
            TeacherCost(
                teacher=tower.teacher,
                device=tower.device,
                hours=self.samples * _tower_seconds(found, tower) / 3600,
                views_per_second=_rate(tower.image_seconds),
                texts_per_second=_rate(tower.text_seconds),
            )
            for tower in found.towers
        )

    @property
    def break_even_epochs(self) -> float | None:
        """s / o: from so many epochs on, the store is cheaper than teachers in every step."""
        towers = self.measured.towers
        online = sum((tower.image_seconds + tower.text_seconds for tower in towers), start=0.0)
        if self.on_cpu:
            core = sum(tower.image_core_seconds + tower.text_core_seconds for tower in towers)
            online = max(online, core / self.cores)
        return self.worker_seconds / online if online else None

    def revised(
        self, *, samples: int | None = None, samples_per_shard: int | None = None, **changes: Any
    ) -> "StorePlan":
        """The same measurements for another number of samples, workers, a price and so on.

        Shards stay as large as they were, unless `samples_per_shard` says otherwise.
        """
        check_positive(samples=1 if samples is None else samples)
        check_positive(samples_per_shard=1 if samples_per_shard is None else samples_per_shard)
        total = self.samples if samples is None else samples
        if samples is not None:
            changes |= {"samples": samples, "samples_from": "given", "samples_error": 0.0}
        size = samples_per_shard or self.samples / self.shards
        if samples is not None or samples_per_shard is not None:
            changes["shards"] = max(1, math.ceil(total / size))
        check_positive(**{name: changes.get(name, getattr(self, name)) for name in _POSITIVE})
        return replace(self, **changes)

    def room(self, out: str | Path) -> DiskRoom:
        """Look at where the store is to go."""
        return disk_room(out, [column.name for column in self.measured.columns])

    def refusal(self, room: DiskRoom) -> str | None:
        """Say why the store does not fit there, at the upper end of its error; None if it does."""
        return room.refusal(self.bytes + self.bytes_error + self.files * _BLOCK, self.files)

    def to_json(self) -> dict[str, Any]:
        """Return JSON values: what `from_json` reads back, and what follows from it."""
        follows = {name: getattr(self, name) for name in _FOLLOWS}
        tables = {name: [asdict(row) for row in getattr(self, name)] for name in _TABLES}
        return {"kind": "plan", **asdict(self), "estimate": {**follows, **tables}}

    @classmethod
    def from_json(cls, content: dict[str, Any], where: str) -> "StorePlan":
        """Read a recorded plan; its estimate is worked out again.

        Raises:
            ValueError: it is something else.
        """
        try:
            values = {field.name: content[field.name] for field in fields(cls)}
            measured = Measurements.from_json(values.pop("measured"))
            return cls(**values, measured=measured)
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"{where} is no plan of this release ({error!r}); distill plan --json prints one"
            ) from error


_POSITIVE = ("samples", "shards", "workers", "cores")
_FOLLOWS = (
    *("bytes", "bytes_error", "files", "host_seconds", "device_seconds", "worker_seconds"),
    *("waits_for", "wall_seconds", "worker_hours", "cost", "break_even_epochs"),
)
_TABLES = ("columns", "teachers")


def check_positive(**numbers: float | int) -> None:
    """Raise ValueError for an argument that is not above 0."""
    for name, value in numbers.items():
        if not value > 0:
            raise ValueError(f"{name} must be above 0, got {value}")


def _tower_seconds(found: Measurements, tower: TowerRates) -> float:
    views = found.num_views * tower.image_seconds
    return views + found.different_texts * tower.text_seconds


def _rate(seconds: float) -> float:
    return 1 / seconds if seconds else 0.0
