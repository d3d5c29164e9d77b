"""What `reinforce` tells its caller: counted from the commits (store/counting.py)."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from reinforced_data.shard_walk import Walked
from reinforced_data.store.columns import Column
from reinforced_data.store.counting import count_commits
from reinforced_data.store.layout import Store


@dataclass(frozen=True, kw_only=True)
class ReinforceReport:
    """What a store holds of the columns asked for, and what this call did for it.

    Attributes:
        samples: rows, skipped ones included.
        skipped: null rows by reason.
        examples: reason -> where the first few are: key, shard, column.
        bytes: of the data files.
        shards: how many source shards are done.
        counted_shards: of how many of them samples, skipped, examples and bytes are told: all;
            in a store of more than 1,000 done shards those that this call wrote.
        shards_already_done: how many of those were, when the call began.
        failed: source shard -> why it could not be read; running again tries again.
        quarantined: source shard -> which three workers died at it, and what to do.
        seconds: this call.
    """

    samples: int
    skipped: dict[str, int]
    examples: dict[str, list[str]]
    bytes: int
    shards: int
    counted_shards: int
    shards_already_done: int
    failed: dict[str, str]
    quarantined: dict[str, str]
    seconds: float


def report_on(
    store: Store, columns: Sequence[Column], *, already: int, walked: Walked, seconds: float
) -> ReinforceReport:
    """Count the shards that all `columns` have; the first is the index.

    Raises:
        ValueError: no shard of the source could be read at all.
    """
    if len(walked.failed) == store.num_shards:
        raise ValueError("; ".join(walked.failed.values()))
    counted = count_commits(store, columns, rows_of=columns[0], written=walked.written)
    return ReinforceReport(
        **asdict(counted),
        shards_already_done=already,
        failed=walked.failed,
        quarantined=walked.quarantined,
        seconds=seconds,
    )
