"""How far a store has come: read from its commits alone, while others write.

No lock and no file of its own: any machine that sees the folder can ask. Commits carry the time
at which they were written, so the rate is that of all writers together. Left out: who writes.
"""

import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from reinforced_data.shard_reader import CUTS
from reinforced_data.store.attempts import (
    Attempt,
    is_quarantined,
    quarantine_text,
    read_attempts,
)
from reinforced_data.store.columns import KINDS, Column
from reinforced_data.store.commits import Commit, shard_name
from reinforced_data.store.layout import Store, open_store

# The rate is that of the newest commits, back to the last pause.
_RECENT = 256
_SHORTEST_PAUSE = 60.0


@dataclass(frozen=True, kw_only=True)
class ColumnProgress:
    """One column.

    Attributes:
        name, kind: of the column.
        shards: how many are committed.
        rows: in them, null rows included.
        bytes: of their data files.
        skipped: null rows that the column lists itself, by reason.
        rows_per_second: of all writers together, lately; None before the second commit.
        seconds_left: at this rate; 0 when complete, None when the rate is not known.
    """

    name: str
    kind: str
    shards: int
    rows: int
    bytes: int
    skipped: dict[str, int]
    rows_per_second: float | None
    seconds_left: float | None


@dataclass(frozen=True, kw_only=True)
class StoreProgress:
    """A store as a whole.

    Attributes:
        store: the folder.
        shards: of the source.
        shards_done: committed in every column.
        samples: rows of the index so far, skipped ones included.
        skipped: null rows by reason, over all columns.
        cut_shards: source shards of which only the beginning could be read.
        quarantined: source shards at which three workers died, with who and what to do.
        at_work: who is at a shard now, and since when in seconds.
        columns: each one.
        seconds_left: of the slowest column.
        seconds_since_commit: since anything was committed, by this machine's clock.
    """

    store: str
    shards: int
    shards_done: int
    samples: int
    skipped: dict[str, int]
    cut_shards: tuple[str, ...]
    quarantined: dict[str, str]
    at_work: dict[str, float]
    columns: tuple[ColumnProgress, ...]
    seconds_left: float | None
    seconds_since_commit: float | None

    @property
    def complete(self) -> bool:
        """Whether every column has every shard."""
        return self.shards_done == self.shards

    def to_json(self) -> dict[str, Any]:
        """Return JSON values, with `complete`."""
        return {"kind": "store", "complete": self.complete, **asdict(self)}


def store_progress(path: str | Path, *, now: float | None = None) -> StoreProgress:
    """Look at a store, local or at any fsspec URL; its source need not be in sight.

    Raises:
        ValueError: there is no store, or a record of it is no record.
    """
    store = open_store(path)
    columns = sorted(store.columns(), key=lambda column: KINDS.index(column.kind))
    commits = {column.name: _commits(store, column) for column in columns}
    progress = tuple(_column(store, column, commits[column.name]) for column in columns)
    every = [commit for found in commits.values() for commit in found]
    skipped = Counter(skip.reason for commit in every for skip in commit.skipped)
    cut = {c.shard for c in every for skip in c.skipped if skip.reason in CUTS}
    done = [{commit.shard for commit in found} for found in commits.values()]
    left = [column.seconds_left for column in progress]
    newest = max((commit.written for commit in every), default=None)
    now = time.time() if now is None else now
    attempts = read_attempts(store.storage)
    return StoreProgress(
        store=store.name,
        shards=store.num_shards,
        shards_done=len(set.intersection(*done)) if done else 0,
        samples=sum(column.rows for column in progress if column.kind == "index"),
        skipped=dict(skipped.most_common()),
        cut_shards=tuple(store.sources[shard] for shard in sorted(cut)),
        quarantined=_quarantined(store, attempts),
        at_work={
            f"{attempt.worker} at shard {shard_name(attempt.shard)}": max(0.0, now - attempt.began)
            for attempt in attempts
            if not attempt.dead
        },
        columns=progress,
        seconds_left=None if None in left else max(filter(None, left), default=0.0),
        seconds_since_commit=None if newest is None else max(0.0, now - newest),
    )


def _quarantined(store: Store, attempts: Sequence[Attempt]) -> dict[str, str]:
    """Say what is quarantined; a shard that killed two jobs is told of once, with both."""
    jobs = defaultdict[tuple[int, str], list[Attempt]](list)
    for attempt in attempts:
        jobs[attempt.shard, attempt.job].append(attempt)
    found: dict[str, str] = {}
    for (shard, _), at_it in sorted(jobs.items()):
        if is_quarantined(at_it):
            source = store.sources[shard]
            text = quarantine_text(shard, source, at_it)
            found[source] = f"{found[source]}; {text}" if source in found else text
    return found


def _commits(store: Store, column: Column) -> list[Commit]:
    """Read a column's records; one may be taken back between the listing and the reading."""

    def read(shard: int) -> Commit | None:
        try:
            return store.commit(column, shard)
        except FileNotFoundError:
            return None

    with ThreadPoolExecutor(16) as pool:
        return [commit for commit in pool.map(read, sorted(store.done(column))) if commit]


def _column(store: Store, column: Column, commits: Sequence[Commit]) -> ColumnProgress:
    recent = _recent(commits)
    done = {commit.shard for commit in commits}
    left = sum(size for shard, size in enumerate(store.source_bytes) if shard not in done)
    rows_per_second = seconds_left = None
    if len(recent) > 1 and recent[-1].written > recent[0].written:
        # The first one was made before the time that is measured.
        seconds = recent[-1].written - recent[0].written
        rows_per_second = sum(commit.rows for commit in recent[1:]) / seconds
        speed = sum(store.source_bytes[commit.shard] for commit in recent[1:]) / seconds
        seconds_left = left / speed if speed else None
    return ColumnProgress(
        name=column.name,
        kind=column.kind,
        shards=len(done),
        rows=sum(commit.rows for commit in commits),
        bytes=sum(commit.num_bytes for commit in commits),
        skipped=dict(Counter(skip.reason for c in commits for skip in c.skipped).most_common()),
        rows_per_second=rows_per_second,
        seconds_left=seconds_left if left else 0.0,
    )


def _recent(commits: Sequence[Commit]) -> list[Commit]:
    """The newest commits, back to the last pause, oldest first."""
    newest = sorted(commits, key=lambda commit: commit.written)[-_RECENT:]
    gaps = [after.written - before.written for before, after in pairwise(newest)]
    if not gaps:
        return newest
    pause = max(_SHORTEST_PAUSE, 5 * median(gaps))
    after_pause = max((i + 1 for i, gap in enumerate(gaps) if gap > pause), default=0)
    return newest[after_pause:]
