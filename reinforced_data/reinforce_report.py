"""What `reinforce` tells its caller: counted from the commits, whoever wrote them."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from reinforced_data.shard_walk import Walked
from reinforced_data.store.columns import Column
from reinforced_data.store.layout import Store

_EXAMPLES = 5


@dataclass(frozen=True, kw_only=True)
class ReinforceReport:
    """What a store holds of the columns asked for, and what this call did for it.

    Attributes:
        samples: rows, skipped ones included.
        skipped: null rows by reason.
        examples: reason -> where the first few are: key, shard, column.
        shards: how many source shards are done.
        shards_already_done: how many of those were, when the call began.
        failed: source shard -> why it could not be read; running again tries again.
        quarantined: source shard -> which three workers died at it, and what to do.
        bytes: of the data files.
        seconds: this call.
    """

    samples: int
    skipped: dict[str, int]
    examples: dict[str, list[str]]
    shards: int
    shards_already_done: int
    failed: dict[str, str]
    quarantined: dict[str, str]
    bytes: int
    seconds: float


def report_on(
    store: Store, columns: Sequence[Column], *, already: int, walked: Walked, seconds: float
) -> ReinforceReport:
    """Count the shards that all `columns` have.

    Raises:
        ValueError: no shard of the source could be read at all.
    """
    if len(walked.failed) == store.num_shards:
        raise ValueError("; ".join(walked.failed.values()))
    samples, size, skipped, examples = 0, 0, Counter[str](), defaultdict[str, list[str]](list)
    done = store.done_in_all(columns)
    for shard in sorted(done):
        for column in columns:
            commit = store.commit(column, shard)
            assert commit is not None
            samples += commit.rows if column.kind == "index" else 0
            size += commit.num_bytes
            for skip in commit.skipped:
                skipped[skip.reason] += 1
                if len(examples[skip.reason]) < _EXAMPLES:
                    name = store.sources[shard].rsplit("/", 1)[-1]
                    examples[skip.reason].append(f"{skip.key!r} in {name} ({column.name})")
    return ReinforceReport(
        samples=samples,
        skipped=dict(skipped),
        examples=dict(examples),
        shards=len(done),
        shards_already_done=already,
        failed=walked.failed,
        quarantined=walked.quarantined,
        bytes=size,
        seconds=seconds,
    )
