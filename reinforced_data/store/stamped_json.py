"""The JSON files of a store carry a checksum of themselves, so that no flipped bit goes unnoticed.

`checksum` is the SHA-256, in hex, of the other fields as JSON with sorted keys and no spaces. Files
from before there were checksums lack it and are read as they are; so are those that somebody edits
on purpose and takes it out of.
"""

import hashlib
import json
from collections.abc import Collection
from typing import Any

_CHECKSUM = "checksum"


def to_stamped_json(content: dict[str, Any]) -> bytes:
    """Return the bytes of a file that holds this object."""
    stamped = {**content, _CHECKSUM: _checksum(content)}
    return (json.dumps(stamped, indent=1, sort_keys=True) + "\n").encode()


def check_stamp(content: dict[str, Any], fields: Collection[str], where: str) -> dict[str, Any]:
    """Return the fields of a file without its checksum.

    Args:
        content: the file's JSON object.
        fields: the names it may have.
        where: the file, for messages.

    Raises:
        ValueError: the checksum is not that of the content, or there are other fields.
    """
    rest = {name: value for name, value in content.items() if name != _CHECKSUM}
    if _CHECKSUM in content and content[_CHECKSUM] != _checksum(rest):
        raise ValueError(
            f"{where} was damaged or edited after it was written: its checksum does not match. If "
            f"you changed it on purpose, remove its field {_CHECKSUM!r}"
        )
    unknown = sorted(set(rest).difference(fields))
    if unknown:
        raise ValueError(f"{where} was damaged or edited: it has the unknown field {unknown[0]!r}")
    return rest


def _checksum(content: dict[str, Any]) -> str:
    return hashlib.sha256(
        json.dumps(content, sort_keys=True, separators=(",", ":")).encode()
    ).hexdigest()
