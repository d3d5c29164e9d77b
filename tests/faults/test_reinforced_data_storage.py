"""Storage that fails between two steps, and lists of sources that somebody else wrote."""

import errno
import json
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from distill.doctor.health import examine
from reinforced_data import audit, reinforce
from reinforced_data.locations import file_sizes
from reinforced_data.reading.shard_cache import ShardCache
from reinforced_data.store.arrow_rows import fixed_lists, make_batch
from reinforced_data.store.columns import make_column
from reinforced_data.store.commits import read_commit, write_unit
from reinforced_data.store.storage import Storage
from reinforced_data.testing import tiny_teacher, write_source


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.EIO, "lost")])
def test_a_record_that_was_made_keeps_its_file(tmp_path, monkeypatch, error):
    """Stopped after the record got its name, and before its folder was synced."""
    storage, column = Storage(tmp_path), make_column("index", "x", {"x": 1})
    rows = fixed_lists(np.ones((1, 1), np.float32), np.array([True]), pa.float32())
    batch = make_batch({"x": rows}, ["a"])

    def fails(storage, path):
        if path.startswith("commits/"):
            raise error

    monkeypatch.setattr(Storage, "_sync_folder", fails)
    with pytest.raises(type(error)):
        write_unit(storage, column, 0, batch, [])
    commit = read_commit(storage, column.name, 0)
    assert commit is not None and storage.exists(commit.data)


class TwoAtOnce:
    """A remote file system; while one process downloads, another fetches a second file."""

    def __init__(self, meanwhile: ShardCache) -> None:
        self.meanwhile = meanwhile

    def unstrip_protocol(self, path: str) -> str:
        return f"two://{path}"

    def get_file(self, path: str, target: str) -> None:
        Path(target).write_bytes(b"1234")
        if path == "first":
            self.meanwhile.fetch(self, "second", 4)


def test_a_small_cache_leaves_what_another_is_downloading(tmp_path):
    left = tmp_path / f".{'0' * 32}.01234567.tmp"
    left.write_bytes(b"of a process that was killed")
    fs = TwoAtOnce(ShardCache(tmp_path, max_bytes=1))
    copy = ShardCache(tmp_path, max_bytes=1).fetch(fs, "first", 4)
    assert copy.read_bytes() == b"1234" and not left.exists()


def test_a_copy_that_another_removes_at_this_moment_is_fetched_again(tmp_path):
    class Evicted(ShardCache):
        times = 0

        def fetch(self, fs, path, size):
            copy = super().fetch(fs, path, size)
            self.times += 1
            if self.times == 1:
                copy.unlink()
            return copy

    cache = Evicted(tmp_path)
    assert cache.map(TwoAtOnce(cache), "second", 4).to_pybytes() == b"1234" and cache.times == 2


def test_a_server_that_lists_nothing_is_asked_for_each_file(monkeypatch):
    class NotAllowedError(Exception):
        """As aiohttp's errors, no OSError."""

    def refuses(self, path, detail=True, **more):
        raise NotAllowedError(path)

    paths = [f"memory://unlisted/{number}.tar" for number in range(9)]
    for number, path in enumerate(paths):
        fsspec.filesystem("memory").pipe_file(path, b"x" * number)
    monkeypatch.setattr(MemoryFileSystem, "ls", refuses)
    assert file_sizes(paths) == list(range(9))


def test_another_s_list_of_sources_runs_nothing(tmp_path, monkeypatch):
    write_source(tmp_path / "source", 3)
    store = tmp_path / "store"
    settings = {"num_views": 1, "progress": False}
    reinforce(tmp_path / "source", store, teachers=tiny_teacher(), **settings)
    listed = json.loads((store / "sources.json").read_text())
    listed["shards"][0]["path"] = f"reference://::{tmp_path}/evil.json"
    listed.pop("checksum")
    (store / "sources.json").write_text(json.dumps(listed))
    opened, real = [], fsspec.core.url_to_fs
    monkeypatch.setattr(fsspec.core, "url_to_fs", lambda url: opened.append(url) or real(url))
    assert any("cannot be reached" in problem for problem in audit(store, progress=False).problems)
    assert any("would run something" in finding.detail for finding in examine(store))
    assert opened and not any("reference" in str(url) for url in opened)


def test_a_store_on_a_scheme_without_its_package_says_which():
    with pytest.raises(ValueError, match=r"needs a package that is not installed: .*[Ii]nstall"):
        Storage("abfs://container/store")
