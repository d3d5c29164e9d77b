"""Shrinking pictures while they are packed: never enlarged, and encoded anew only when shrunk.

Decoding is that of everything else (decoding.py): CMYK and 16 bits become 8-bit RGB, of an
animation the first frame is kept, transparency is flattened on white, EXIF orientation and colour
profiles are dropped unused. A PNG stays a PNG; JPEG and WebP become JPEG.
"""

import io
import re
from dataclasses import dataclass
from typing import Literal

from PIL import Image

from reinforced_data.decoding import MAX_PIXELS, UnreadableImage, decode_image, image_size

_RULE = re.compile(r"(shorter|longer):([1-9][0-9]{0,4})")


@dataclass(frozen=True, kw_only=True)
class Resize:
    """Pictures whose `side` has more than `pixels` are shrunk until it has as many."""

    side: Literal["shorter", "longer"]
    pixels: int

    def size(self, width: int, height: int) -> tuple[int, int]:
        """The size after shrinking; the same one when nothing is to be done."""
        length = min(width, height) if self.side == "shorter" else max(width, height)
        if length <= self.pixels:
            return width, height
        scale = self.pixels / length
        return max(1, round(width * scale)), max(1, round(height * scale))


def parse_resize(rule: str) -> Resize | None:
    """Read `none`, `shorter:512` or `longer:512`.

    Raises:
        ValueError: it is none of them.
    """
    if rule == "none":
        return None
    match = _RULE.fullmatch(rule)
    if match is None:
        raise ValueError(
            f"resize must be none, shorter:PIXELS or longer:PIXELS, such as shorter:512; got "
            f"{rule!r}"
        )
    return Resize(side="shorter" if match[1] == "shorter" else "longer", pixels=int(match[2]))


def shrink(data: bytes, resize: Resize, *, quality: int, max_pixels: int = MAX_PIXELS) -> bytes:
    """Return the encoded picture shrunk, or `data` itself when it is small enough.

    Args:
        data: a JPEG, PNG or WebP.
        resize: how small.
        quality: of a JPEG, 1 to 100.
        max_pixels: a picture with more is refused.

    Raises:
        UnreadableImage: as `decode_image`; or it is too large even when shrunk.
    """
    before = image_size(data, max_pixels=max_pixels)
    size = resize.size(*before)
    if size[0] * size[1] > MAX_PIXELS:
        raise UnreadableImage("too-many-pixels", f"{size[0]} x {size[1]}, also when shrunk")
    if size == before:
        return data
    image = decode_image(data, max_pixels=max_pixels)
    image = image.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)
    file = io.BytesIO()
    if data[:4] == b"\x89PNG":
        image.save(file, "PNG")
    else:
        image.save(file, "JPEG", quality=quality)
    return file.getvalue()
