"""`extra` columns: whatever else belongs to the samples of a store, in a schema of your own.

Teacher attention keep-indices, aesthetic scores, boxes: one row per sample, committed like every
other column, so that writing them can be stopped, resumed and done by several processes. No
training reads them by itself. What is left out: checking what the numbers mean.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from reinforced_data.plan import check_same_settings
from reinforced_data.shard_walk import ShardWalk
from reinforced_data.store.arrow_rows import keys_digest, make_batch, stamped_keys
from reinforced_data.store.columns import Column, make_column, slugify
from reinforced_data.store.commits import Skipped
from reinforced_data.store.layout import Store, open_store
from reinforced_data.store.leftovers import remove_leftovers

RowsOfShard = Callable[[int, list[str]], pa.RecordBatch]
"""Makes the rows of a shard from its number and its samples' keys, in their order."""

_NOTHING = "nothing-said"


def write_extra(
    store: str | Path,
    name: str,
    schema: pa.Schema,
    rows_of_shard: RowsOfShard,
    *,
    identity: dict[str, Any] | None = None,
    facts: dict[str, Any] | None = None,
) -> Column:
    """Write an extra column, or what is missing of it.

    Args:
        store: a reinforced dataset's folder or URL.
        name: the column's: lower-case letters, digits and single hyphens.
        schema: of its rows.
        rows_of_shard: called for each shard that has an index and not this column; returns one row
            per key. A row that is null in every field is one that could not be made.
        identity: what determines the rows (model, settings), JSON values; other values under the
            same name are refused.
        facts: what is good to know besides, such as a licence.

    Returns:
        The column, as `read_extra` and `Store.rows` take it.

    Raises:
        ValueError: there is no store or it has no index, the name is none or means something else
            there, or rows do not fit the schema or the shard.
    """
    if not name or slugify(name) != name:
        raise ValueError(
            f"an extra column's name is lower-case letters, digits and single hyphens, got {name!r}"
        )
    opened = open_store(store)
    index = _index(opened)
    column = make_column(
        "extra",
        f"extra-{name}",
        {
            "name": name,
            "schema": [[field.name, str(field.type)] for field in schema],
            "of": identity or {},
            "hangs_on": index.name,
        },
        facts,
    )
    same_name = [c for c in opened.columns("extra") if c.identity.get("name") == name]
    check_same_settings(opened, same_name, column, f"extra column {name!r}", "another name")
    column = opened.add_column(column)
    ready = opened.done(index)
    not_ready = set(range(opened.num_shards)) - ready
    walk = ShardWalk(opened.num_shards, opened.done(column) | not_ready)
    for shard in walk:
        if opened.commit(column, shard) is not None or not _write(
            opened, index, column, schema, shard, rows_of_shard
        ):
            walk.met_another()
    remove_leftovers(opened)
    return column


def read_extra(store: str | Path, name: str) -> Iterator[tuple[int, list[str], pa.RecordBatch]]:
    """Yield shard, keys and rows of each shard that has the column; local files are mapped.

    Raises:
        ValueError: there is no store, or no such column, or it was written for other samples.
    """
    opened = open_store(store)
    index = _index(opened)
    known = {column.identity["name"]: column for column in opened.columns("extra")}
    if name not in known:
        raise ValueError(
            f"{opened.name} has no extra column {name!r}; it has {sorted(known) or 'none'}"
        )
    for shard in sorted(opened.done(known[name])):
        keys = opened.rows(index, shard)["key"].to_pylist()
        rows = opened.rows(known[name], shard)
        if stamped_keys(rows) != keys_digest(keys):
            raise ValueError(
                f"{opened.name}: column {known[name].name} was written for other samples of shard "
                f"{shard} than the index"
            )
        yield shard, keys, rows


def _index(store: Store) -> Column:
    found = store.columns("index")
    if not found:
        raise ValueError(f"{store.name} has no samples yet; write them with distill reinforce")
    return found[0]


def _write(
    store: Store,
    index: Column,
    column: Column,
    schema: pa.Schema,
    shard: int,
    rows_of_shard: RowsOfShard,
) -> bool:
    keys: list[str] = store.rows(index, shard)["key"].to_pylist()
    rows = rows_of_shard(shard, keys)
    if not rows.schema.equals(schema):
        raise ValueError(
            f"{column.name}, shard {shard}: the rows have the schema\n{rows.schema}\nand not\n"
            f"{schema}"
        )
    if rows.num_rows != len(keys):
        raise ValueError(
            f"{column.name}, shard {shard}: {rows.num_rows} rows for {len(keys)} samples; a sample "
            "without anything to say needs a row of nulls"
        )
    batch = make_batch(dict(zip(schema.names, rows.columns, strict=True)), keys)
    skipped = _null_rows(store, index, shard, rows, keys)
    return store.write(column, shard, batch, skipped) is not None


def _null_rows(
    store: Store, index: Column, shard: int, rows: pa.RecordBatch, keys: list[str]
) -> list[Skipped]:
    """The rows that say nothing, but for those that the index skips already."""
    said = np.zeros(rows.num_rows, dtype=bool)
    for values in rows.columns:
        said |= np.asarray(values.is_valid())
    commit = store.commit(index, shard)
    assert commit is not None
    said[[skip.row for skip in commit.skipped]] = True
    silent = np.flatnonzero(~said).tolist()
    return [Skipped(row=row, key=keys[row], reason=_NOTHING) for row in silent]
