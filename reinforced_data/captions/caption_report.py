"""What `caption` tells its caller: counted from the commits, and what its processes counted."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from reinforced_data.shard_walk import Walked
from reinforced_data.shard_work import tidy_up
from reinforced_data.store.columns import Column
from reinforced_data.store.counting import count_commits
from reinforced_data.store.layout import Store


@dataclass(frozen=True, kw_only=True)
class CaptionReport:
    """What a store holds of a caption set, and what this call did for it.

    Attributes:
        caption_set: its name.
        columns: what was asked for: the set's column, then one per teacher.
        samples: rows, skipped ones included.
        skipped: null rows by reason; what the index skips is not counted again.
        examples: reason -> where the first few are: key, shard, column.
        bytes: of the data files.
        written: captions written by this call.
        dropped: the captioner's texts that this call did not keep, by reason.
        retries: requests to the captioner's server that this call had to send again, by reason.
        shards: how many source shards are done.
        counted_shards: of how many of them samples, skipped, examples and bytes are told: all;
            in a store of more than 1,000 done shards those that this call wrote.
        shards_already_done: how many of those were, when the call began.
        waiting: source shards that lack what the set is made from (reinforce is not done there).
        failed: source shard -> why it could not be read; running again tries again.
        quarantined: source shard -> which three workers died at it, and what to do.
        seconds: this call.
    """

    caption_set: str
    columns: tuple[str, ...]
    samples: int
    skipped: dict[str, int]
    examples: dict[str, list[str]]
    bytes: int
    written: int
    dropped: dict[str, int]
    retries: dict[str, int]
    shards: int
    counted_shards: int
    shards_already_done: int
    waiting: int
    failed: dict[str, str]
    quarantined: dict[str, str]
    seconds: float


def conclude_captions(
    store: Store, columns: Sequence[Column], *, already: int, walked: Walked, started: float
) -> CaptionReport:
    """Tidy a store up after the work on these columns, and count; the first is the set's.

    Raises:
        ValueError: no shard could be read at all.
    """
    tidy_up(store, columns)
    counted = count_commits(store, columns, rows_of=columns[0], written=walked.written)
    if walked.failed and not (counted.shards or walked.quarantined):
        raise ValueError("; ".join(walked.failed.values()))

    def by_reason(kind: str) -> dict[str, int]:
        return {reason: n for (of, reason), n in walked.counts.items() if of == kind}

    return CaptionReport(
        caption_set=columns[0].identity["set"],
        columns=tuple(column.name for column in columns),
        **asdict(counted),
        written=sum(by_reason("written").values()),
        dropped=by_reason("dropped"),
        retries=by_reason("retries"),
        shards_already_done=already,
        waiting=store.num_shards - counted.shards - len(walked.failed) - len(walked.quarantined),
        failed=walked.failed,
        quarantined=walked.quarantined,
        seconds=time.perf_counter() - started,
    )
