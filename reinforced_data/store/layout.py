"""The store: sources.json, columns/, data/ and commits/ of one folder. README.md has the format.

The source shards are never copied. A local source that lies beside the store is written down
relative to it, so that both can be moved together.
"""

import os
from collections.abc import Iterable
from pathlib import Path

import fsspec
import pyarrow as pa
from fsspec.implementations.local import LocalFileSystem

from reinforced_data.locations import file_sizes
from reinforced_data.shard_reader import CUTS
from reinforced_data.store.arrow_rows import from_ipc
from reinforced_data.store.columns import FORMAT_VERSION, Column
from reinforced_data.store.commits import Commit, Skipped, commit_path, read_commit, write_unit
from reinforced_data.store.stamped_json import check_stamp, to_stamped_json
from reinforced_data.store.storage import Storage

_SOURCES = "sources.json"


class Store:
    """A reinforced dataset's files; `create_store` and `open_store` make one."""

    def __init__(self, storage: Storage) -> None:
        """Read the list of sources."""
        self.storage = storage
        listing = storage.read_json(_SOURCES)
        if listing.get("format_version") != FORMAT_VERSION:
            raise ValueError(
                f"{storage.name}/{_SOURCES} has format version {listing.get('format_version')!r}, "
                f"this release reads version {FORMAT_VERSION}"
            )
        where = f"{storage.name}/{_SOURCES}"
        try:
            shards = check_stamp(listing, ("format_version", "shards"), where)["shards"]
            self.source_bytes = [int(shard["bytes"]) for shard in shards]
            self.sources = [_absolute(storage, shard["path"]) for shard in shards]
        except (KeyError, TypeError) as error:
            raise ValueError(f"{where} is no list of source shards: {error!r}") from error

    @property
    def name(self) -> str:
        """Where it is, for messages."""
        return self.storage.name

    @property
    def num_shards(self) -> int:
        """How many source shards it belongs to, done or not."""
        return len(self.sources)

    def columns(self, kind: str | None = None) -> list[Column]:
        """List columns by name, of one kind or all."""
        found = []
        for file in self.storage.list("columns", ".json"):
            path = f"columns/{file}"
            column = Column.from_json(self.storage.read_json(path), f"{self.name}/{path}")
            if kind is None or column.kind == kind:
                found.append(column)
        return found

    def add_column(self, column: Column) -> Column:
        """Write a column's JSON file if it is new; return the one in the store."""
        path = f"columns/{column.name}.json"
        self.storage.create(path, column.to_json())
        stored = Column.from_json(self.storage.read_json(path), f"{self.name}/{path}")
        if stored.fingerprint != column.fingerprint:
            raise ValueError(
                f"{self.name}/{path} has the fingerprint {stored.fingerprint}, not "
                f"{column.fingerprint}: two columns of one name. Use another store"
            )
        return stored

    def done(self, column: Column) -> set[int]:
        """Which shards have a commit."""
        names = self.storage.list(f"commits/{column.name}", ".json")
        return {int(name.removesuffix(".json")) for name in names if not name.startswith(".")}

    def done_in_all(self, columns: Iterable[Column]) -> set[int]:
        """List the shards that every one of these columns has."""
        return set.intersection(*(self.done(column) for column in columns))

    def commit(self, column: Column, shard: int) -> Commit | None:
        """Read a unit's commit record, or None."""
        return read_commit(self.storage, column.name, shard)

    def write(
        self, column: Column, shard: int, batch: pa.RecordBatch, skipped: list[Skipped]
    ) -> Commit | None:
        """Write a unit; None when another writer was first."""
        return write_unit(self.storage, column, shard, batch, skipped)

    def rows(self, column: Column, shard: int) -> pa.RecordBatch:
        """Open a unit's rows, memory-mapped when local.

        Raises:
            ValueError: the unit is not committed, or its data file is gone or has another size.
        """
        commit = self.commit(column, shard)
        if commit is None:
            raise ValueError(f"{self.name}: column {column.name} has no commit for shard {shard}")
        return self.committed_rows(commit)

    def committed_rows(self, commit: Commit) -> pa.RecordBatch:
        """Open the rows that a commit record names; raises as `rows` does, or an OSError."""
        where = f"{self.name}/{commit.data}"
        try:
            data = self.storage.open_buffer(commit.data, commit.num_bytes)
        except FileNotFoundError as error:
            if self.storage.exists(commit.data):
                raise
            raise ValueError(
                f"{where} is missing though it was committed. Delete its record under "
                f"{self.name}/commits/{commit.column} and run reinforce again"
            ) from error
        return self.rows_of(commit, data)

    def rows_of(self, commit: Commit, data: pa.Buffer) -> pa.RecordBatch:
        """Open the rows of a record's data file, which is in memory.

        Raises:
            ValueError: the file is not what the record says.
        """
        where = f"{self.name}/{commit.data}"
        if data.size != commit.num_bytes:
            raise ValueError(f"{where} has {data.size} bytes, its commit says {commit.num_bytes}")
        batch = from_ipc(data, where)
        if batch.num_rows != commit.rows:
            raise ValueError(f"{where} has {batch.num_rows} rows, its commit says {commit.rows}")
        return batch


def open_store(path: str | Path) -> Store:
    """Open an existing store.

    Raises:
        ValueError: there is none.
    """
    storage = Storage(path)
    if not storage.exists(_SOURCES):
        raise ValueError(f"{storage.name} is not a reinforced dataset: it has no {_SOURCES}")
    return Store(storage)


def create_store(path: str | Path, shards: list[str]) -> Store:
    """Create a store for these source shards, or open the one that is there.

    A shard that could not be read before, or not to its end, may be replaced; what is committed of
    a shard that was cut is taken back then.

    Raises:
        ValueError: the store there was made from other shards, or one has changed its size.
    """
    storage = Storage(path)
    sizes = zip(shards, file_sizes(shards), strict=True)
    listing = {
        "format_version": FORMAT_VERSION,
        "shards": [{"path": _recorded(storage, shard), "bytes": size} for shard, size in sizes],
    }
    storage.create(_SOURCES, to_stamped_json(listing))
    store = Store(storage)
    wanted = [_absolute(storage, shard["path"]) for shard in listing["shards"]]
    if store.sources != wanted:
        pairs = enumerate(zip(store.sources, wanted, strict=False))
        detail = next(
            (f"number {i} is {old}, you give {new}" for i, (old, new) in pairs if old != new),
            f"it has {store.num_shards}, you give {len(wanted)}",
        )
        raise _other_source(store, detail)
    if _check_sizes(store, [shard["bytes"] for shard in listing["shards"]]):
        storage.write(_SOURCES, to_stamped_json(listing))
    return Store(storage)


def _check_sizes(store: Store, sizes: list[int]) -> bool:
    """Return whether a shard has another size; only one that was cut may, of those committed."""
    changed = [i for i, size in enumerate(sizes) if size != store.source_bytes[i]]
    columns = store.columns() if changed else ()
    used = set[int]().union(*map(store.done, columns))
    for shard in sorted(used.intersection(changed)):
        if not _take_back_if_cut(store, shard):
            raise _other_source(
                store,
                f"{store.sources[shard]} had {store.source_bytes[shard]} bytes, "
                f"now it has {sizes[shard]}",
            )
    return bool(changed)


def _take_back_if_cut(store: Store, shard: int) -> bool:
    """Remove the records of a shard of which only the beginning could be read."""
    index = next(iter(store.columns("index")), None)
    commit = store.commit(index, shard) if index else None
    if commit is None or not any(skip.reason in CUTS for skip in commit.skipped):
        return False
    # The index goes last: who is killed in between finds the cut there again.
    for column in sorted(store.columns(), key=lambda column: column.kind == "index"):
        store.storage.remove(commit_path(column.name, shard))
    return True


def _other_source(store: Store, detail: str) -> ValueError:
    return ValueError(
        f"{store.name} was made from other source shards: {detail}. Give the same source, or "
        "another folder for the new store"
    )


def _recorded(storage: Storage, path: str) -> str:
    fs, inner = fsspec.core.url_to_fs(path)
    if not (storage.local and isinstance(fs, LocalFileSystem)):
        return path if not isinstance(fs, LocalFileSystem) else inner
    beside = os.path.dirname(os.path.abspath(storage.root))
    if beside != "/" and os.path.commonpath([beside, inner]) == beside:
        return Path(os.path.relpath(inner, storage.root)).as_posix()
    return inner


def _absolute(storage: Storage, path: str) -> str:
    if "://" in path or os.path.isabs(path):
        return path
    return os.path.normpath(os.path.join(storage.root, path))
