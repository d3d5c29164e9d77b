"""Who is at a shard and who died at it: a small record an attempt, in the store.

Whoever begins a shard takes one of its three places, `attempts/SHARD.JOB.PLACE.json`, and gives it
back when the shard is done or the work ends in order. Who is killed cannot, and the record stays.
Three of the dead quarantine a shard; since there are only three places, a shard that kills whoever
reads it costs three workers, however many there are.

A job is what the same command does when it is given again: the columns that it writes. What a
captioner dies of need not kill a teacher, so each job counts for itself. Records without a job are
of an earlier release; they count for every job.

An attempt is dead when its process is gone, where this machine can see that; elsewhere when it gave
no sign for ten minutes (a sign is due every minute; clocks may differ by a few); or when it left an
error of ours behind. Nothing hangs on that being right: the first commit wins whoever is taken for
dead. A record makes no file visible and is no part of what makes two stores equal.
"""

import functools
import hashlib
import json
import math
import os
import re
import socket
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType

import psutil

from reinforced_data.store.columns import Column
from reinforced_data.store.commits import shard_name
from reinforced_data.store.storage import Storage

PLACES = 3
FOLDER = "attempts"
_SIGN_SECONDS = 60.0
_SILENT_SECONDS = 600.0
_NAME = re.compile(r"(\d+)\.(?:([0-9a-f]{8})\.)?\d\.json")
# Not the shard's fault: a wrong source or setting, a full disk, a broken network.
_IN_ORDER = (ValueError, OSError)


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One record.

    Attributes:
        shard, place: which of the shard's places is taken.
        worker: who took it, for people: host:pid, or what a launcher calls its worker.
        machine: where; processes of one machine see each other.
        pid, born: the process and when it was started, since numbers are used again.
        began: when, seconds since 1970.
        sign: when it was last seen.
        error: what ended it, where that is known.
        job: what is done to the shard, see `job_of`; "" in records of an earlier release.
    """

    shard: int
    place: int
    worker: str
    machine: str
    pid: int
    born: float
    began: float
    sign: float
    error: str | None = None
    job: str = ""

    @property
    def path(self) -> str:
        """Where the record is, relative to the store."""
        of = f"{shard_name(self.shard)}.{self.job}" if self.job else shard_name(self.shard)
        return f"{FOLDER}/{of}.{self.place}.json"

    @property
    def dead(self) -> bool:
        """Whether whoever made it will not come back to it."""
        if self.error is not None:
            return True
        if self.machine == _this_machine():
            return not _runs(self.pid, self.born)
        return time.time() - self.sign > _SILENT_SECONDS

    def to_json(self) -> bytes:
        """Return the record's content."""
        return json.dumps(asdict(self)).encode()


class Place:
    """A place at a shard that this process has taken; a context manager around the work on it."""

    def __init__(self, storage: Storage, attempt: Attempt) -> None:
        """Remember what was written."""
        self._storage = storage
        self._attempt = attempt

    def sign(self) -> None:
        """Say that somebody is there; cheap to call at every batch."""
        if time.time() - self._attempt.sign > _SIGN_SECONDS:
            self._attempt = replace(self._attempt, sign=time.time())
            self._storage.note(self._attempt.path, self._attempt.to_json())

    def __enter__(self) -> "Place":
        """Begin."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give the place back, unless something broke that nobody foresaw."""
        if isinstance(error, Exception) and not isinstance(error, _IN_ORDER):
            said = f"{type(error).__name__}: {error}".splitlines()[0][:500]
            attempt = replace(self._attempt, error=said)
            self._storage.note(attempt.path, attempt.to_json())
        else:
            self._storage.remove(self._attempt.path)


def job_of(columns: Iterable[Column]) -> str:
    """Name the job that writes these columns."""
    names = ",".join(sorted(column.name for column in columns))
    return hashlib.sha256(names.encode()).hexdigest()[:8]


def read_attempts(storage: Storage) -> list[Attempt]:
    """Read the records of all jobs, by shard."""
    found = [_read(storage, name) for _, _, name in _names(storage)]
    return [attempt for attempt in found if attempt is not None]


class Attempts:
    """The attempts of one job at the shards of a store."""

    def __init__(self, storage: Storage, job: str, worker: str | None = None) -> None:
        """Say what is done, see `job_of`, and who this is; nothing is written."""
        self._storage, self._job = storage, job
        self._worker = worker or f"{socket.gethostname()}:{os.getpid()}"

    def all(self) -> dict[int, list[Attempt]]:
        """Read the records, by shard."""
        found: dict[int, list[Attempt]] = defaultdict(list)
        for shard, name in self._names():
            attempt = _read(self._storage, name)
            if attempt is not None:
                found[shard].append(attempt)
        return dict(found)

    def of(self, shard: int) -> list[Attempt]:
        """Read the records of one shard."""
        found = [_read(self._storage, name) for number, name in self._names() if number == shard]
        return [attempt for attempt in found if attempt is not None]

    def quarantined(self) -> dict[int, list[Attempt]]:
        """Read those of the shards at which three workers died."""
        return {shard: found for shard, found in self.all().items() if is_quarantined(found)}

    def take(self, shard: int, places: int = PLACES) -> Place | None:
        """Take one of the first `places` places at a shard; None when they are taken."""
        now = time.time()
        for place in range(places):
            attempt = Attempt(
                shard=shard,
                place=place,
                worker=self._worker,
                machine=_this_machine(),
                pid=os.getpid(),
                born=_born(),
                began=now,
                sign=now,
                job=self._job,
            )
            if _is_abandoned(self._storage, attempt.path):
                self._storage.remove(attempt.path)
            if self._storage.claim(attempt.path, attempt.to_json()):
                return Place(self._storage, attempt)
        return None

    def declare_dead(self, worker: str, why: str) -> None:
        """Write down that a worker is gone: its launcher knows before any clock does."""
        for attempts in self.all().values():
            for attempt in attempts:
                if attempt.worker == worker and attempt.error is None:
                    self._storage.note(attempt.path, replace(attempt, error=why).to_json())

    def withdraw(self, worker: str, declared: str | None = None) -> None:
        """Remove the records of a worker whose machine went: that says nothing of its shard.

        Those that were declared dead for the reason `declared` go too; errors of its own stay.
        """
        for attempts in self.all().values():
            for attempt in attempts:
                if attempt.worker == worker and attempt.error in (None, declared):
                    self._storage.remove(attempt.path)

    def forget_the_dead(self, shards: Iterable[int], *, began_before: float = math.inf) -> None:
        """Remove the dead's records of these shards: because they are done, or to try again."""
        wanted = set(shards)
        for shard, name in self._names():
            attempt = _read(self._storage, name) if shard in wanted else None
            if attempt is not None and attempt.dead and attempt.began < began_before:
                self._storage.remove(attempt.path)
        self._storage.remove_empty(FOLDER)

    def _names(self) -> list[tuple[int, str]]:
        own = (self._job, "")
        return [(shard, name) for shard, job, name in _names(self._storage) if job in own]


def _names(storage: Storage) -> list[tuple[int, str, str]]:
    """List shard, job and file name of all records."""
    matches = map(_NAME.fullmatch, storage.list(FOLDER, ".json"))
    return [(int(match[1]), match[2] or "", match[0]) for match in matches if match]


def _read(storage: Storage, name: str) -> Attempt | None:
    """Read a record; None when it is gone, or not whole at this moment."""
    try:
        return Attempt(**json.loads(storage.read(f"{FOLDER}/{name}")))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def _is_abandoned(storage: Storage, path: str) -> bool:
    """Whether a record was never whole: its disk was full or its machine lost, it has not begun.

    Left alone it would keep its place for ever.
    """
    if not storage.local or _read(storage, path.rpartition("/")[2]) is not None:
        return False  # remote ones are written whole or not at all
    try:
        written = os.stat(f"{storage.root}/{path}").st_mtime
    except FileNotFoundError:
        return False
    return time.time() - written > _SILENT_SECONDS


def is_quarantined(attempts: list[Attempt]) -> bool:
    """Whether as many have died as there are places."""
    return sum(attempt.dead for attempt in attempts) >= PLACES


def quarantine_text(shard: int, source: str, attempts: list[Attempt]) -> str:
    """Say what happened at a shard and what to do."""
    who = ", ".join(f"{a.worker} ({a.error or 'killed'})" for a in attempts if a.dead)
    return (
        f"{source} is quarantined: {len(attempts)} workers died at it: {who}. Look at the shard "
        "and at the memory of this machine, then run again with --retry-quarantined (or remove "
        f"{FOLDER}/{shard_name(shard)}.*.json); all other shards go on without it"
    )


@functools.cache
def _this_machine() -> str:
    """Name what shares process numbers: a host since it was started, or a container on it."""
    parts = [socket.gethostname()]
    boot = Path("/proc/sys/kernel/random/boot_id")
    if boot.exists():
        parts += [boot.read_text().strip(), os.readlink("/proc/self/ns/pid")]
    return "/".join(parts)


def _born() -> float:
    return psutil.Process().create_time()


def _runs(pid: int, born: float) -> bool:
    """Whether this very process still runs; one that waits to be buried does not."""
    try:
        process = psutil.Process(pid)
        if abs(process.create_time() - born) > 10.0:
            return False
        return process.status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True
