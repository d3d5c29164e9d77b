"""What an audit finds: a kind that programs can read, a text for people, and where it is."""

from dataclasses import dataclass

# docs/audit.md has a section for each.
REDONE = (
    "damaged-record",
    "damaged-file",
    "wrong-schema",
    "other-samples",
    "wrong-nulls",
    "wrong-captions",
    "wrong-views",
    "wrong-rows",
)
"""Kinds that doing a unit again mends."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        kind: a slug; those of `REDONE` name a unit.
        text: what, where, why and what to do.
        column: which column, where it is one's.
        shards: which shards, where it is theirs.
        cause: of `wrong-rows`, what explains them; see diagnosing.py.
    """

    kind: str
    text: str
    column: str | None = None
    shards: tuple[int, ...] = ()
    cause: str | None = None

    @property
    def units(self) -> list[tuple[str, int]]:
        """The units, as (column, shard), that have to be done again; none if it would not help."""
        if self.kind not in REDONE or self.column is None:
            return []
        return [(self.column, shard) for shard in self.shards]
