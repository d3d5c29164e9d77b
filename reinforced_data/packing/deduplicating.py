"""Equal pictures: found by the SHA-256 of their bytes as the input has them.

`drop` keeps a 16-byte digest of every picture in a set, some 100 bytes each. Two different
pictures would need to share half a SHA-256 to be taken for one. `merge` has to know all copies
before the first is written, so it reads the input twice; between the passes it keeps what is known
of the copies alone.
"""

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from reinforced_data.packing.listing import Listed
from reinforced_data.preparing import in_threads
from reinforced_data.source import UnreadableImage, image_size

Deduplicate = Literal["none", "drop", "merge"]
DIGEST_BYTES = 16


def digest_of(data: bytes) -> bytes:
    """The first half of a picture's SHA-256."""
    return hashlib.sha256(data).digest()[:DIGEST_BYTES]


@dataclass
class Merged:
    """What is known of copies before anything is written; rows are numbered in packing order.

    Attributes:
        captions: row of the first copy -> the texts of all of them, each once.
        copies: the rows of the others.
    """

    captions: dict[int, tuple[str, ...]] = field(default_factory=dict)
    copies: set[int] = field(default_factory=set)

    def to_json(self) -> bytes:
        """Return JSON that `from_file` reads back."""
        content = {"captions": list(self.captions.items()), "copies": sorted(self.copies)}
        return json.dumps(content).encode()

    @classmethod
    def from_file(cls, path: Path) -> "Merged":
        """Read it back."""
        content = json.loads(path.read_bytes())
        captions = {int(row): tuple(texts) for row, texts in content["captions"]}
        return cls(captions=captions, copies=set(content["copies"]))


def merge_copies(
    rows: Iterable[Listed],
    max_pixels: int,
    on_row: Callable[[], None],
) -> Merged:
    """Read every picture and note which ones are copies; what cannot be used is no copy.

    Args:
        rows: in packing order.
        max_pixels: larger pictures cannot be used.
        on_row: called after each row; the work stops where this raises.
    """
    first: dict[bytes, int] = {}
    merged = Merged()
    found = in_threads(lambda number, row: (number, row, _digest(row, max_pixels)), rows)
    for number, row, digest in found:
        on_row()
        if digest is None:
            continue
        original = first.setdefault(digest, number)
        if original == number:
            continue
        merged.copies.add(number)
        merged.captions[original] = (*merged.captions.get(original, ()), *row.captions)
    return merged


def _digest(row: Listed, max_pixels: int) -> bytes | None:
    if row.problem or row.read is None or not (row.captions or row.label is not None):
        return None
    try:
        data = row.read()
        image_size(data, max_pixels=max_pixels)
    except (OSError, ValueError, UnreadableImage):
        return None
    return digest_of(data)


def all_captions(own: tuple[str, ...], others: tuple[str, ...]) -> tuple[str, ...]:
    """A picture's texts and its copies', each once."""
    return tuple(dict.fromkeys((*own, *others)))
