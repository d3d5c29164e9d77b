"""Extra columns: any schema, one row per sample, committed and checked like the others."""

import numpy as np
import pyarrow as pa
import pytest

from reinforced_data import audit, open_dataset, read_extra, reinforce, write_extra
from reinforced_data.store.layout import open_store
from reinforced_data.testing import sample, write_source

SCHEMA = pa.schema([("kept", pa.list_(pa.uint16(), 4)), ("score", pa.float32())])


@pytest.fixture
def store(tmp_path):
    """Twelve samples in three shards; of one the picture is broken."""
    samples = [sample(number) for number in range(12)]
    samples[6] = sample(6, png=b"broken")
    source = write_source(tmp_path / "source", samples)
    reinforce(source, tmp_path / "store", teachers=(), num_views=2, progress=False)
    return tmp_path / "store"


def kept_patches(shard: int, keys: list[str]) -> pa.RecordBatch:
    """Four patches per picture; nothing for the broken one, and for another."""
    said = [None if key in ("0006", "0008") else int(key) for key in keys]
    kept = [None if n is None else [n, n + 1, n + 2, n + 3] for n in said]
    scores = [None if n is None else n / 2 for n in said]
    return pa.record_batch([pa.array(kept, SCHEMA.field(0).type), pa.array(scores, pa.float32())],
                           schema=SCHEMA)  # fmt: skip


def test_written_and_read(store):
    before = open_dataset(store).num_samples
    column = write_extra(store, "patches", SCHEMA, kept_patches, identity={"model": "x"})
    assert column.name.startswith("extra-patches-")
    found = {}
    for _, keys, rows in read_extra(store, "patches"):
        found |= dict(zip(keys, rows["kept"].to_pylist(), strict=True))
        assert rows.schema.names == ["kept", "score"]
    assert found["0003"] == [3, 4, 5, 6] and found["0006"] is None
    assert len(found) == 12
    commit = open_store(store).commit(column, 1)
    assert commit is not None
    assert [(skip.key, skip.reason) for skip in commit.skipped] == [("0008", "nothing-said")]
    assert open_dataset(store).num_samples == before, "nobody has to read it"
    assert audit(store, progress=False).ok


def test_the_same_call_goes_on_where_it_stopped(store):
    made = []

    def stopping(shard: int, keys: list[str]) -> pa.RecordBatch:
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(shard)
        return kept_patches(shard, keys)

    with pytest.raises(KeyboardInterrupt):
        write_extra(store, "patches", SCHEMA, stopping)
    assert [shard for shard, _, _ in read_extra(store, "patches")] == made == [0, 1]
    made.clear()
    write_extra(store, "patches", SCHEMA, stopping)
    assert made == [2]


def test_slices_of_something_larger_are_written_as_they_read(store):
    numbers = np.arange(100, dtype=np.float32)
    schema = pa.schema([("number", pa.float32())])

    def rows_of_shard(shard: int, keys: list[str]) -> pa.RecordBatch:
        return pa.record_batch([numbers], schema=schema).slice(3 + 5 * shard, len(keys))

    write_extra(store, "numbers", schema, rows_of_shard)
    found = [rows["number"].to_pylist() for _, _, rows in read_extra(store, "numbers")]
    assert np.concatenate(found).tolist() == list(range(3, 15))


@pytest.mark.parametrize(
    ("name", "make", "message"),
    [
        ("Patches!", kept_patches, "lower-case letters"),
        ("p", lambda shard, keys: kept_patches(shard, keys[1:]), "4 rows for 5 samples"),
        (
            "p",
            lambda _, keys: pa.record_batch([pa.array(keys)], names=["x"]),
            "the rows have the schema",
        ),
    ],
)
def test_what_does_not_fit_is_refused(store, name, make, message):
    with pytest.raises(ValueError, match=message):
        write_extra(store, name, SCHEMA, make)


def test_a_name_means_one_thing(store):
    write_extra(store, "patches", SCHEMA, kept_patches, identity={"model": "x"})
    with pytest.raises(ValueError, match="another extra column 'patches' already"):
        write_extra(store, "patches", SCHEMA, kept_patches, identity={"model": "y"})
    with pytest.raises(ValueError, match="has no extra column 'other'"):
        next(read_extra(store, "other"))
