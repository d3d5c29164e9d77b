"""Which rows of a store a run can use: known from the commits alone."""

from collections.abc import Callable, Mapping, Sequence

from reinforced_data.store.columns import Column
from reinforced_data.store.commits import Commit


def usable_rows(
    num_shards: int,
    committed: Callable[[Column], Mapping[int, Commit]],
    always: Sequence[Column],
    of_sets: Sequence[Sequence[Column]],
) -> tuple[list[int], list[set[int]]]:
    """Return each shard's number of rows, and which of them cannot be used.

    Args:
        num_shards: of the store.
        committed: gives a column's commits by shard.
        always: columns in which a row must not be null; the first is the index.
        of_sets: for each caption set the columns that hang on it; of one set all must have the row.
    """
    columns = [*always, *(column for group in of_sets for column in group)]
    num_rows, excluded = [], []
    for shard in range(num_shards):
        found = {column.name: committed(column).get(shard) for column in columns}
        done = {name: commit for name, commit in found.items() if commit is not None}
        # A shard that one of the columns lacks is left out.
        num_rows.append(done[always[0].name].rows if len(done) == len(found) else 0)
        excluded.append(_unusable(done, always, of_sets) if num_rows[-1] else set())
    return num_rows, excluded


def _unusable(
    commits: Mapping[str, Commit], always: Sequence[Column], of_sets: Sequence[Sequence[Column]]
) -> set[int]:
    """Rows that lack what is always needed, or have no caption in any of the sets."""

    def skipped(columns: Sequence[Column]) -> set[int]:
        return {skip.row for column in columns for skip in commits[column.name].skipped}

    return skipped(always) | set.intersection(*(skipped(group) for group in of_sets))
