"""Columns: what one contribution to a store is, by an immutable JSON file and a fingerprint.

The identity (everything that changes the rows) is hashed into the column's name, so that another
teacher, policy or codec can only ever be another column. Library versions, licence and the like
are facts: written down, not hashed.
"""

import hashlib
import json
import platform
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from reinforced_data.store.stamped_json import check_stamp, to_stamped_json

FORMAT_VERSION = 1
KINDS = (
    "index",
    "views",
    "captions",
    "image_embeddings",
    "text_embeddings",
    "scores",
    "extra",
)
ORIGINAL = "original"
"""The caption set that holds the source's own texts."""
DEFAULT = "default"
"""The view set that was not given a name."""

_FIELDS = ("format_version", "column", "kind", "fingerprint", "identity", "facts")
_LIBRARIES = ("clip-distill", "torch", "torchvision", "open_clip_torch", "timm", "Pillow")
_DATA_LIBRARIES = ("simplejpeg", "pyarrow", "numpy")


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column as its JSON file says it.

    Attributes:
        name: readable slug and the first 8 hex digits of `fingerprint`.
        kind: one of `KINDS`.
        fingerprint: SHA-256 of kind and identity, in hex.
        identity: what determines the rows, JSON values.
        facts: what is good to know besides, JSON values.
    """

    name: str
    kind: str
    fingerprint: str
    identity: dict[str, Any]
    facts: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> bytes:
        """Return the content of `columns/NAME.json`."""
        content = {
            "format_version": FORMAT_VERSION,
            "column": self.name,
            "kind": self.kind,
            "fingerprint": self.fingerprint,
            "identity": self.identity,
            "facts": self.facts,
        }
        return to_stamped_json(content)

    @classmethod
    def from_json(cls, content: dict[str, Any], where: str) -> "Column":
        """Read it back.

        Raises:
            ValueError: another format version, a missing or an unknown field, an unknown kind, or
                a fingerprint or checksum that does not match (the file was edited).
        """
        if content.get("format_version") != FORMAT_VERSION:
            raise ValueError(
                f"{where} has format version {content.get('format_version')!r}, this release "
                f"reads version {FORMAT_VERSION}"
            )
        try:
            column = cls(
                name=content["column"],
                kind=content["kind"],
                fingerprint=content["fingerprint"],
                identity=content["identity"],
                facts=content["facts"],
            )
        except KeyError as error:
            raise ValueError(f"{where} lacks the field {error}") from error
        if column.kind not in KINDS:
            raise ValueError(f"{where} is of the unknown kind {column.kind!r}")
        if column.fingerprint != fingerprint_of(column.kind, column.identity):
            raise ValueError(f"{where} was changed: its identity does not match its fingerprint")
        check_stamp(content, _FIELDS, where)
        return column


def make_column(
    kind: str, slug: str, identity: dict[str, Any], facts: dict[str, Any] | None = None
) -> Column:
    """Name a column after its slug and fingerprint; library versions are added to the facts."""
    assert kind in KINDS
    # Through JSON, so that it compares equal to what is read back.
    identity = json.loads(json.dumps(identity))
    fingerprint = fingerprint_of(kind, identity)
    return Column(
        name=f"{slugify(slug)}-{fingerprint[:8]}",
        kind=kind,
        fingerprint=fingerprint,
        identity=identity,
        facts={**(facts or {}), "versions": library_versions()},
    )


def fingerprint_of(kind: str, identity: dict[str, Any]) -> str:
    """Hash kind and identity as JSON with sorted keys and no spaces."""
    text = json.dumps({"kind": kind, "identity": identity}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def slugify(text: str) -> str:
    """Lower-case letters and digits, everything else one hyphen; never empty."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:64] or "column"


def view_set_of(column: Column) -> str:
    """The name of a views column's set; the default one has none on disk."""
    return column.identity.get("set", DEFAULT)


def modalities_of(column: Column) -> tuple[str, ...]:
    """What the teacher of an embeddings column can embed: both, in columns that do not say."""
    return tuple(column.facts.get("teacher", {}).get("modalities", ("image", "text")))


def caption_sets(columns: Iterable[Column]) -> dict[str, Column]:
    """The caption sets among columns by name, the original one too."""
    return {c.identity["set"]: c for c in columns if c.kind == "captions"}


def library_versions() -> dict[str, str]:
    """Return the versions that pixels and embeddings depend on."""
    versions = {"python": platform.python_version()}
    for name in (*_LIBRARIES, *_DATA_LIBRARIES):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions
