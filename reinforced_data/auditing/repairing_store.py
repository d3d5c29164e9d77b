"""A store in which damaged units look as if nobody had done them, and that puts new ones there.

The damaged unit stays until its successor is whole, so a kill at any moment leaves either of them:
the same command finds and mends the rest. What is derived from the source alone has to come out as
it was, where anything still tells how that was; if it does not, the source is another.
"""

import hashlib
from dataclasses import dataclass

import pyarrow as pa

from reinforced_data.auditing.findings import Finding
from reinforced_data.auditing.repairing_captions import is_written
from reinforced_data.store.arrow_rows import keys_digest, stamped_keys
from reinforced_data.store.columns import ORIGINAL, Column
from reinforced_data.store.commits import (
    Commit,
    Skipped,
    prepare_unit,
    read_commit,
    replace_unit,
    shard_name,
)
from reinforced_data.store.layout import Store

Unit = tuple[str, int]
"""Column and shard."""

_DERIVED = ("index", "captions", "views")


@dataclass(frozen=True, kw_only=True)
class Damaged:
    """A unit that is done again.

    Attributes:
        why: the kind of finding.
        commit: its record, where that can be read.
        digests: what its data file may have been, as SHA-256; empty when nothing tells.
    """

    why: str
    commit: Commit | None
    digests: frozenset[str]


class RepairStore(Store):
    """A store with damaged units.

    Attributes:
        damaged: those that are not done again yet.
        redone: those that are, and why, in order.
    """

    def __init__(self, store: Store) -> None:
        """Nothing is damaged yet."""
        super().__init__(store.storage)
        self.damaged: dict[Unit, Damaged] = {}
        self.redone: list[tuple[Unit, str]] = []

    def add(self, unit: Unit, finding: Finding) -> None:
        """Note a damaged unit."""
        column, shard = unit
        try:
            commit = read_commit(self.storage, column, shard)
        except ValueError:
            commit = None
        digests = frozenset[str]()
        if finding.kind == "damaged-file" and commit is not None:
            digests = frozenset([commit.sha256])
        elif finding.kind == "damaged-record":
            digests = self._digests_of_files(column, shard)
        self.damaged[unit] = Damaged(why=finding.kind, commit=commit, digests=digests)

    def _digests_of_files(self, column: str, shard: int) -> frozenset[str]:
        folder = f"data/{column}"
        names = self.storage.list(folder, ".arrow")
        own = [name for name in names if name.startswith(f"{shard_name(shard)}.")]
        return frozenset(
            hashlib.sha256(self.storage.open_buffer(f"{folder}/{name}")).hexdigest() for name in own
        )

    def source_texts_of(self, column: Column) -> Column | None:
        """Return the same teacher's column of the source's captions."""
        (captions,) = [
            c.name for c in self.columns("captions") if c.identity.get("set") == ORIGINAL
        ]
        fingerprint = column.identity.get("teacher_fingerprint")
        for texts in self.columns("text_embeddings"):
            same = texts.identity["teacher_fingerprint"] == fingerprint
            if same and texts.identity["hangs_on"] == captions:
                return texts
        return None

    def commit(self, column: Column, shard: int) -> Commit | None:
        """A unit's record; None for a damaged one."""
        return None if (column.name, shard) in self.damaged else super().commit(column, shard)

    def done(self, column: Column) -> set[int]:
        """Which shards have a commit that is not damaged."""
        return {n for n in super().done(column) if (column.name, n) not in self.damaged}

    def write(
        self, column: Column, shard: int, batch: pa.RecordBatch, skipped: list[Skipped]
    ) -> Commit | None:
        """Write a unit; a damaged one is replaced.

        Raises:
            ValueError: it is derived from the source alone, and comes out otherwise than it was.
        """
        damaged = self.damaged.get((column.name, shard))
        if damaged is None:
            return super().write(column, shard, batch, skipped)
        data, commit = prepare_unit(column, shard, batch, skipped)
        if column.kind in _DERIVED and not is_written(column):
            self._check_unchanged(column, commit, batch, damaged)
        commit = replace_unit(self.storage, data, commit, damaged.commit)
        del self.damaged[column.name, shard]
        self.redone.append(((column.name, shard), damaged.why))
        return commit

    def _keys(self, column: Column, shard: int) -> str | None:
        """What keys a unit was written for; None where there is none, or none that can be read."""
        try:
            return stamped_keys(self.rows(column, shard))
        except ValueError:
            return None

    def _check_unchanged(
        self, column: Column, commit: Commit, batch: pa.RecordBatch, damaged: Damaged
    ) -> None:
        shard = commit.shard
        differs = bool(damaged.digests) and commit.sha256 not in damaged.digests
        if column.kind == "index":
            keys = keys_digest(batch["key"].to_pylist())
            others = [c for c in self.columns() if c.kind != "index"]
            differs |= any(self._keys(other, shard) not in (keys, None) for other in others)
        if differs:
            raise ValueError(
                f"column {column.name}, shard {shard}, is damaged, and made again from "
                f"{self.sources[shard]} it would not be what it was: the source, or a library that "
                "reads it, has changed since. Nothing of it was replaced. Put the old shard back, "
                "or reinforce into a new store"
            )
