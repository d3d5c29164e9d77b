"""Fifty thousand synthetic rows: all of them are read, each as it was written, and no more.

A million, in the slow test, are opened and read in time.
"""

import hashlib
import json
import pickle
import sys
import tempfile
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from distill.testing import start
from reinforced_data import open_dataset
from reinforced_data.reading import order
from reinforced_data.reading.order import SampleOrder, view_indices
from reinforced_data.store.arrow_rows import Texts, numbers
from reinforced_data.testing import TOKENIZER
from reinforced_data.testing_stores import caption_of, expected_rows, key_of, synthetic_store
from teachers import Preprocess

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import store_reading

SHARDS, ROWS, VIEWS, DIM, BATCH = 25, 2_000, 2, 32, 1_000


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return synthetic_store(
        tmp_path_factory.mktemp("scale"),
        num_shards=SHARDS,
        shard_rows=ROWS,
        num_views=VIEWS,
        embed_dim=DIM,
    )


def reading(store, **options):
    """What a loader's worker reads from."""
    loader = open_dataset(store).loader(
        preprocess=Preprocess(image_size=8),
        tokenizer=TOKENIZER,
        batch_size=BATCH,
        num_steps=100,
        window_shards=4,
        **options,
    )
    return loader.dataset


def test_an_epoch_reads_every_row_as_it_was_written(store):
    batches, seen = reading(store), set()
    for step in range(SHARDS * ROWS // BATCH):
        read = batches.rows(step)
        assert read.epoch == 0
        places = list(zip(read.shards.tolist(), read.rows.tolist(), strict=True))
        seen.update(places)
        assert read.keys == [key_of(*place) for place in places]
        assert read.captions == [caption_of(*place) for place in places]
        views = view_indices(0, 0, read.keys, VIEWS)
        ((stored,),) = batches.embeddings(read)
        for rows, view in ((stored.image, views), (stored.text, -1)):
            wanted = expected_rows(read.shards, read.rows, view, DIM).astype(np.float32)
            torch.testing.assert_close(rows, torch.from_numpy(wanted), atol=1e-3, rtol=0)
    assert len(seen) == SHARDS * ROWS
    assert batches.rows(50).epoch == 1


def test_the_numbers_of_a_view_are_those_in_the_store(store):
    batches = reading(store)
    read = batches.rows(3)
    views = view_indices(0, 0, read.keys, VIEWS)
    shards = {shard: batches._shard(shard).views for shard in set(read.shards.tolist())}
    for slot in range(0, BATCH, 37):
        opened = shards[int(read.shards[slot])]
        wanted = opened.views(int(read.rows[slot]))[views[slot]]
        assert opened.made(*read.view_numbers(slot)) == wanted


def test_memory_grows_with_what_is_read(store):
    """An opened shard costs bytes per shard and not per row: nothing is copied out of its files."""
    batches = reading(store)
    first = batches.rows(0)
    tracemalloc.start()
    for step in range(1, 8):  # the rest of the first window
        batches.rows(step)
    grown, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(set(first.shards.tolist())) == 4
    # The next window's shards are opened by then, and it is shuffled: 8 bytes a row.
    assert grown < 4 * ROWS * 8 + 4 * 50_000 + 50_000

    batches = reading(store)
    tracemalloc.start()
    batches.rows(0)
    grown, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # The window's order, 8 bytes a row, which is not a file's, and the shards of the next.
    assert grown < 4 * ROWS * 8 + 8 * 50_000


def make_and_measure(folder: str) -> None:
    """In a process of its own: that of the tests checks the shapes of every call, which costs."""
    torch.set_num_threads(1)
    store = synthetic_store(
        Path(folder) / "made",
        num_shards=100,
        shard_rows=10_000,
        num_views=1,
        embed_dim=768,
        codec="int8",
    )
    Path(folder, "found.json").write_text(json.dumps(store_reading.measure(store)))


@pytest.mark.slow
def test_a_million_int8_rows_open_at_once_and_a_batch_costs_little():
    """In float16 0.02 s and 8 to 9 ms were measured (benchmarks/results/store-reading.csv).

    All in processor time: by the clock it says how busy the machine is.
    """
    with tempfile.TemporaryDirectory() as folder:  # pytest would keep three of 1.6 GB
        process = start(make_and_measure, folder)
        process.join()
        assert process.exitcode == 0
        found = json.loads(Path(folder, "found.json").read_text())
    assert (found["rows"], found["batch"]) == (1_000_000, 1024)
    assert float(found["open_cpu_s"]) < 2, found
    assert float(found["cpu_ms_p95"]) < 20, found


def test_texts_and_numbers_of_odd_arrays():
    array = pa.array(["a", None, "", "zoë", "d"])
    assert Texts(array).some(np.array([3, 0, 1, 2])) == ["zoë", "a", "", ""]
    assert Texts(array[2:]).some(np.array([1, 2])) == ["zoë", "d"]
    assert Texts(pa.array([], pa.string())).some(np.array([], np.int64)) == []
    assert Texts(pa.array([None, None], pa.string())).some(np.array([1])) == [""]
    values = pa.array([4, None, 6, 7])
    assert numbers(values, np.dtype("<i8"))[[0, 2]].tolist() == [4, 6]
    assert numbers(values[2:], np.dtype("<i8")).tolist() == [6, 7]
    assert numbers(values[:0], np.dtype("<i8")).tolist() == []


def test_equal_draws_keep_their_places(monkeypatch):
    """Sixty-four bits are never equal in a test, so here they are few."""

    class FewBits:
        def __init__(self, key: int) -> None:
            self.bits = np.random.Generator(np.random.PCG64(key))

        def random_raw(self, size: int) -> np.ndarray:
            return self.bits.integers(0, 50, size, dtype=np.uint64)

    monkeypatch.setattr(order.np.random, "Philox", FewBits)
    found = order._permutation(5_000, 0, 0, "shards")
    key = int.from_bytes(hashlib.sha256(b"0/0/shards").digest()[:16], "little")
    raw = FewBits(key).random_raw(5_000)
    assert found.tolist() == np.argsort(raw, kind="stable").tolist()


@pytest.mark.parametrize("size", [0, 1, 2, 1 << 14, (1 << 14) + 1, 100_000])
def test_a_shuffle_in_parts_is_the_order_of_its_random_numbers(size):
    key = int.from_bytes(hashlib.sha256(b"7/2/window 3").digest()[:16], "little")
    raw = np.random.Philox(key=key).random_raw(size)
    found = np.empty(size, np.int64)
    assert len(list(order._permuting(found, 7, 2, "window 3"))) == -(-size // (1 << 14))
    assert found.tolist() == np.argsort(raw, kind="stable").tolist()


def test_a_window_is_prepared_little_by_little_and_is_the_same():
    """Also where a loader is sent to a worker in the middle of it."""
    settings = {"batch_size": 64, "window_shards": 2, "seed": 0}
    shards = ([30_000] * 4, [()] * 4)
    asked = SampleOrder(*shards, **settings)
    ahead = SampleOrder(*shards, **settings)
    for _ in range(2):
        ahead.prepare(0, 1)
    sent = pickle.loads(pickle.dumps(ahead))
    assert not ahead._windows and not sent._windows
    for _ in range(8):
        ahead.prepare(0, 1)
        sent.prepare(0, 1)
    assert (0, 1) in ahead._windows and (0, 1) in sent._windows
    step = asked.steps_per_epoch - 1
    for order_ in (ahead, sent):
        for found, wanted in zip(order_.batch(step)[1:], asked.batch(step)[1:], strict=True):
            assert found.tolist() == wanted.tolist()


def test_steps_are_counted_from_their_windows_ends():
    """Windows of 60 and 30 rows, batches of 8: the eighth step ends in the second window."""
    around = SampleOrder([30] * 3, [()] * 3, batch_size=8, window_shards=2, seed=0).around
    assert [around(step) for step in (0, 6, 7, 8, 10)] == [(0, 6), (6, 0), (0, 3), (1, 2), (3, 0)]
    assert around(11) == around(0), "the next epoch's first"
