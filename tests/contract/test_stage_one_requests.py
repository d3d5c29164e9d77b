"""What is asked of an object store: the model's requests are those that are really sent."""

from collections import Counter
from dataclasses import asdict

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from reinforced_data import (
    Cluster,
    ViewPolicy,
    caption,
    open_dataset,
    reinforce,
    shard_walk,
    simulate,
)
from reinforced_data.auditing.sources import check_sources
from reinforced_data.planning import request_counts
from reinforced_data.planning.request_counts import Requests, StoreShape
from reinforced_data.store import counting, many_commits
from reinforced_data.store.layout import open_store
from reinforced_data.testing import tiny_teacher, write_source
from teachers import RuleCaptioner

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
    monkeypatch.setattr(many_commits, "THREADS", 1)
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


def test_training_begins_with_what_the_model_says(sent, monkeypatch):
    write()
    sent.clear()
    dataset = open_dataset("memory://store")
    assert dataset.num_samples == 18
    assert Requests(**sent) == SHAPE.read(SHARDS)
    alone = [(name, list(found.items())) for name, found in dataset._commits.items()]
    monkeypatch.setattr(many_commits, "THREADS", 16)
    monkeypatch.setattr(many_commits, "_AT_ONCE", 4)
    again = open_dataset("memory://store")
    assert again.num_samples == 18
    assert [(name, list(found.items())) for name, found in again._commits.items()] == alone
    path = next(p for p in MemoryFileSystem.store if "/commits/index" in p and "00005" in p)
    MemoryFileSystem().pipe_file(path, b"{}")
    with pytest.raises(ValueError, match=r"00005.json has format version None"):
        assert open_dataset("memory://store").num_samples


def test_captions_read_no_record_before_the_work(sent, monkeypatch):
    """And ask again what is done when their own shards are."""
    write()
    asked, looks, read, walk = [], [], MemoryFileSystem.cat_file, shard_walk.ShardWalk

    def reading(self, path, *arguments, **options):
        asked.append(path)
        return read(self, path, *arguments, **options)

    def walking(num_shards, done, *, look):
        assert asked and not [path for path in asked if "/commits/" in path]

        def looking():
            looks.append(look())
            return looks[-1]

        return walk(num_shards, done, look=looking)

    monkeypatch.setattr(MemoryFileSystem, "cat_file", reading)
    monkeypatch.setattr(shard_walk, "ShardWalk", walking)
    report = caption("memory://store", RuleCaptioner(), name="new", progress=False)
    assert report.shards == SHARDS
    assert looks == [set(range(SHARDS))]


def test_an_audit_lists_the_source_and_names_what_is_gone(sent):
    write()
    store = open_store("memory://store")
    sent.clear()
    assert check_sources(store) == (set(range(SHARDS)), [])
    assert sent == {"list": 3}  # nine shards in pages of four
    MemoryFileSystem().rm_file("/source/00003.tar")
    present, (finding,) = check_sources(store)
    assert present == set(range(SHARDS)) - {3}
    assert (finding.kind, finding.shards) == ("missing-source", (3,))
