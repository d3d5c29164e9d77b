"""What the commits of a store say, added up: the end of `reinforce`, `caption` and an import.

A record is a request on an object store. So a small store is counted whole, whoever wrote it, and
of a large one each process counts the shards that it wrote itself: a thousand processes that all
read a million records would be at it for half a day. `distill status` counts any store whole, once.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from reinforced_data.store.columns import Column
from reinforced_data.store.layout import Store
from reinforced_data.store.many_commits import read_commits

COUNTED_SHARDS = 1000
"""A store with more finished shards is not counted whole."""
_EXAMPLES = 5


@dataclass(frozen=True, kw_only=True)
class Counted:
    """What was found.

    Attributes:
        shards: how many have all the columns.
        counted_shards: of how many of them the rest is told.
        samples: rows, null rows included.
        skipped: null rows by reason.
        examples: reason -> where the first few are: key, shard, column.
        bytes: of the data files.
    """

    shards: int
    counted_shards: int
    samples: int
    skipped: dict[str, int]
    examples: dict[str, list[str]]
    bytes: int


def count_commits(
    store: Store,
    columns: Sequence[Column],
    *,
    rows_of: Column,
    written: Collection[int],
    once: bool = False,
) -> Counted:
    """Count the shards that all `columns` have, or of many of them those in `written`.

    Args:
        store: whose.
        columns: whose records to read.
        rows_of: the one of them whose rows are the samples.
        written: shards that this call has written.
        once: count a sample that several columns leave out for one reason once.
    """
    done = store.done_in_all(columns)
    shards = sorted(done if len(done) <= COUNTED_SHARDS else done.intersection(written))
    samples, size, skipped, examples = 0, 0, Counter[str](), defaultdict[str, list[str]](list)
    for shard, commits in zip(shards, read_commits(store, columns, shards), strict=True):
        source = store.sources[shard].rsplit("/", 1)[-1]
        found: set[tuple[int, str]] = set()
        for column, commit in zip(columns, commits, strict=True):
            assert commit is not None
            samples += commit.rows if column is rows_of else 0
            size += commit.num_bytes
            for skip in commit.skipped:
                if once and (skip.row, skip.reason) in found:
                    continue
                found.add((skip.row, skip.reason))
                skipped[skip.reason] += 1
                if len(examples[skip.reason]) < _EXAMPLES:
                    examples[skip.reason].append(f"{skip.key!r} in {source} ({column.name})")
    return Counted(
        shards=len(done),
        counted_shards=len(shards),
        samples=samples,
        skipped=dict(skipped),
        examples=dict(examples),
        bytes=size,
    )
