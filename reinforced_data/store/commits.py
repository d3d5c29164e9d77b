"""Commit records: what makes a data file of a store visible, and the only thing that does.

A unit is (column, shard). Its data file carries the attempt in its name; its record is created
only if there is none. So two writers of one unit, or one that comes back from the dead, can waste
work but never harm: the first commit wins, and redoing a unit is always safe.
"""

import contextlib
import dataclasses
import hashlib
import time
import uuid
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from reinforced_data.store.arrow_rows import to_ipc
from reinforced_data.store.columns import FORMAT_VERSION, Column
from reinforced_data.store.stamped_json import check_stamp, to_stamped_json
from reinforced_data.store.storage import Storage


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """A null row and why; what is null in a column that this one hangs on is listed there."""

    row: int
    key: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Commit:
    """One record.

    Attributes:
        column: the column's name.
        shard: index into sources.json.
        data: the data file, relative to the store.
        rows: how many rows it has, null rows included.
        num_bytes: its size.
        sha256: of its bytes, in hex.
        skipped: null rows with reasons.
        written: when, seconds since 1970; not part of what makes two stores equal.
    """

    column: str
    shard: int
    data: str
    rows: int
    num_bytes: int
    sha256: str
    skipped: tuple[Skipped, ...]
    written: float

    def to_json(self) -> bytes:
        """Return the content of `commits/COLUMN/SHARD.json`."""
        return to_stamped_json({"format_version": FORMAT_VERSION, **asdict(self)})

    @classmethod
    def from_json(cls, content: dict[str, Any], where: str) -> "Commit":
        """Read it back.

        Raises:
            ValueError: another format version, a missing or an unknown field, or a checksum that
                does not match.
        """
        if content.get("format_version") != FORMAT_VERSION:
            raise ValueError(f"{where} has format version {content.get('format_version')!r}")
        names = [field.name for field in dataclasses.fields(cls)]
        fields = check_stamp(content, ["format_version", *names], where)
        del fields["format_version"]
        try:
            fields["skipped"] = tuple(Skipped(**skip) for skip in fields["skipped"])
            return cls(**fields)
        except (KeyError, TypeError) as error:
            raise ValueError(f"{where} is not a commit record: {error}") from error


def shard_name(shard: int) -> str:
    """Five digits."""
    return f"{shard:05d}"


def commit_path(column: str, shard: int) -> str:
    """Where a unit's record is."""
    return f"commits/{column}/{shard_name(shard)}.json"


def read_commit(storage: Storage, column: str, shard: int) -> Commit | None:
    """Read a unit's record, or None when the unit is not done."""
    path = commit_path(column, shard)
    try:
        # Not asked for first: on an object store that would be a request more for each of them.
        content = storage.read_json(path)
    except FileNotFoundError:
        return None
    return Commit.from_json(content, f"{storage.name}/{path}")


def write_unit(
    storage: Storage,
    column: Column,
    shard: int,
    batch: pa.RecordBatch,
    skipped: list[Skipped],
) -> Commit | None:
    """Write the data file, then the record; None when another writer was first.

    A file without its record is removed; `remove_leftovers` removes what killed attempts have left.
    After an error the record may be there all the same: its answer was lost, or its folder could
    not be synced. Then the file stays, and also where nobody can say.
    """
    data, commit = prepare_unit(column, shard, batch, skipped)
    storage.write(commit.data, data)
    try:
        won = storage.create(commit_path(column.name, shard), commit.to_json())
    except Exception:
        with contextlib.suppress(Exception):  # the first error is the one to tell
            there = read_commit(storage, column.name, shard)
            if there is None or there.data != commit.data:
                storage.remove(commit.data)
        raise
    if not won:
        storage.remove(commit.data)
    return commit if won else None


def replace_unit(storage: Storage, data: bytes, commit: Commit, damaged: Commit | None) -> Commit:
    """Put a unit in the place of a damaged one; at no moment is there none.

    Where only the damaged one's file was harmed, the same bytes go to the same place and its record
    stays. Otherwise the new file is there before the record that names it.
    """
    inside = damaged is not None and damaged.data.startswith(f"data/{commit.column}/")
    if damaged is not None and inside and _same_unit(damaged, commit):
        storage.write(damaged.data, data)
        return damaged
    storage.write(commit.data, data)
    storage.write(commit_path(commit.column, commit.shard), commit.to_json())
    return commit


def _same_unit(a: Commit, b: Commit) -> bool:
    """All but attempt and time."""
    return dataclasses.replace(a, data=b.data, written=b.written) == b


def prepare_unit(
    column: Column, shard: int, batch: pa.RecordBatch, skipped: list[Skipped]
) -> tuple[bytes, Commit]:
    """The bytes of a new attempt's data file, and the record of it."""
    data = to_ipc(batch)
    attempt = uuid.uuid4().hex[:8]
    commit = Commit(
        column=column.name,
        shard=shard,
        data=f"data/{column.name}/{shard_name(shard)}.{attempt}.arrow",
        rows=batch.num_rows,
        num_bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        skipped=tuple(skipped),
        # Rounded: of 17 digits the last may be flipped without changing the number.
        written=round(time.time(), 3),
    )
    return data, commit
