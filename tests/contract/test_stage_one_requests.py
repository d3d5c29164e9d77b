"""What stage 1 asks of an object store: the model's requests are those that are really sent."""

from collections import Counter
from dataclasses import asdict

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from reinforced_data import Cluster, ViewPolicy, reinforce, simulate
from reinforced_data.planning import request_counts
from reinforced_data.planning.request_counts import Requests, StoreShape
from reinforced_data.store import counting
from reinforced_data.testing import tiny_teacher, write_source

SHARDS, PAGE = 9, 4
SHAPE = StoreShape(columns=7)
SETTINGS = {"num_views": 1, "policy": ViewPolicy(num_ops=1), "progress": False}
KINDS = {
    "ls": "list",
    "exists": "head",
    "info": "head",
    "cat_file": "get",
    "pipe_file": "put",
    "rm_file": "delete",
}


@pytest.fixture
def sent(monkeypatch, tmp_path) -> Counter[str]:
    """A source in an object store, of small pages, that counts what it is asked from outside."""
    files = MemoryFileSystem()
    files.store.clear()
    for path in write_source(tmp_path, 2 * SHARDS, samples_per_shard=2):
        with open(path, "rb") as shard:
            files.pipe_file(f"/source/{path[-9:]}", shard.read())
    counts, inside = Counter[str](), []

    def counted(name, kind):
        original = getattr(MemoryFileSystem, name)

        def ask(self, *arguments, **options):
            inside.append(name)
            found = ()
            try:
                found = original(self, *arguments, **options)
                return found
            finally:
                inside.pop()
                if not inside:
                    counts[kind] += max(1, -(-len(found) // PAGE)) if kind == "list" else 1

        monkeypatch.setattr(MemoryFileSystem, name, ask)

    for name, kind in KINDS.items():
        counted(name, kind)
    monkeypatch.setattr(request_counts, "_PAGE", PAGE)
    # One thread, so that a call is known to be from outside.
    monkeypatch.setattr(counting, "THREADS", 1)
    yield counts
    files.store.clear()


def write():
    teachers = [tiny_teacher("one"), tiny_teacher("two", seed=1)]
    source = "memory://source/{00000..00008}.tar"
    return reinforce(source, "memory://store", teachers=teachers, **SETTINGS)


def test_a_run_sends_what_the_simulator_says(sent):
    assert write().shards == SHARDS
    wanted = simulate(Cluster(shards=SHARDS, shard_seconds=60, workers=1, columns=7)).requests
    assert sent == {kind: count for kind, count in wanted.items() if count}


def test_a_run_that_goes_on_sends_what_the_model_says(sent):
    write()
    files = MemoryFileSystem()
    for path in list(files.store):
        shard = path.rpartition("/")[-1].split(".")[0]
        if path.startswith(("/store/data/", "/store/commits/")) and int(shard) >= 6:
            del files.store[path]
    sent.clear()
    report = write()
    assert report.shards_already_done == 6
    one = SHAPE.see_who_is_there(0, 0) + SHAPE.write_shard(0)
    wanted = SHAPE.start(SHARDS, 6, begun=True) + one.times(3) + SHAPE.look(SHARDS)
    wanted += SHAPE.end(SHARDS) + SHAPE.count(SHARDS, 3)
    assert Requests(**sent) == wanted


def test_a_large_store_is_not_counted_whole_by_whoever_ends(sent, monkeypatch):
    """Who wrote three of nine shards reads the records of three, and says so."""
    write()
    whole = write()
    files = MemoryFileSystem()
    for path in [path for path in files.store if "/0000" in path and path[-10:] >= "00006.json"]:
        if path.startswith("/store/commits/"):
            del files.store[path]
    sent.clear()
    monkeypatch.setattr(counting, "COUNTED_SHARDS", 8)
    monkeypatch.setattr(request_counts, "COUNTED_SHARDS", 8)
    part = write()
    assert (part.shards, part.counted_shards, part.samples) == (9, 3, 6)
    assert (whole.shards, whole.counted_shards, whole.samples) == (9, 9, 18)
    assert 0 < part.bytes < whole.bytes
    assert asdict(SHAPE.count(9, 3))["get"] == 21
    again = write()
    assert (again.shards, again.counted_shards, again.samples) == (9, 0, 0)
