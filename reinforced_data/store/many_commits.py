"""Many commit records at once: each is a request on an object store, and requests wait together."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from reinforced_data.store.columns import Column
from reinforced_data.store.commits import Commit
from reinforced_data.store.layout import Store

THREADS = 16
_AT_ONCE = 256


def read_commits(
    store: Store, columns: Sequence[Column], shards: Sequence[int]
) -> Iterator[list[Commit | None]]:
    """Yield the records of shard after shard, in the order given; only some are in memory.

    Args:
        store: whose.
        columns: what each shard's list has a record of, or None where it is not done.
        shards: which.

    Raises:
        ValueError: of the first shard with a record that is none.
    """

    def of_shard(shard: int) -> list[Commit | None]:
        return [store.commit(column, shard) for column in columns]

    with ThreadPoolExecutor(THREADS) as pool:
        for first in range(0, len(shards), _AT_ONCE):
            yield from pool.map(of_shard, shards[first : first + _AT_ONCE])
