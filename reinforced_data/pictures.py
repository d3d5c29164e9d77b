"""An encoded picture, decoded as far as its views need and no further.

The crop of a view and the model's size are known before anything is decoded. Three things follow.
A JPEG is decoded at 1/2, 1/4 or 1/8 of its size where that is all a view needs (libjpeg-turbo's
scaled inverse DCT). A picture keeps what it has decoded, so that all views of one scale share one
decode. And of a JPEG whose bytes are known to be good, nothing below the lowest crop is decoded.
Left out: skipping what lies above or beside a crop, which libjpeg-turbo can and no Python package
offers.
"""

import numpy as np
import simplejpeg
from jaxtyping import UInt8
from PIL import Image

from reinforced_data.decoding import decode_image, image_size, plain_jpeg_size

# Baseline, extended and progressive; of the rare others all rows are decoded.
_FRAME_HEADERS = (0xC0, 0xC1, 0xC2)
# Smoothly upsampled colours look one row of theirs ahead: at most four rows, of 1/8 at most.
_ROWS_AHEAD = 32


class Picture:
    """An encoded image whose header was read.

    Attributes:
        width: in pixels.
        height: in pixels.
        scalable: whether `pixels` takes other scales than 1: a JPEG in grey or YCbCr.
    """

    def __init__(self, data: bytes, *, known_good: bool = False) -> None:
        """Read the header; nothing is decoded yet.

        Args:
            data: a JPEG, PNG or WebP.
            known_good: these very bytes were decoded before (their hash says so), so that
                damage need not be looked for below what is asked for.

        Raises:
            UnreadableImage: see `image_size`.
        """
        size = plain_jpeg_size(data)
        self.scalable = size is not None
        self.width, self.height = size or image_size(data)
        self._data = data
        self._known_good = known_good
        self._image: Image.Image | None = None
        self._decoded: dict[int, np.ndarray] = {}

    def image(self) -> Image.Image:
        """Decode all of it at full size, as `decode_image` does; raises what that raises."""
        if self._image is None:
            self._image = decode_image(self._data)
        return self._image

    def pixels(self, scale: int = 1, rows: int | None = None) -> UInt8[np.ndarray, "rows width 3"]:
        """Decode at 1/`scale`, rounded up, at least the first `rows` rows of that.

        Args:
            scale: 1, or 2, 4 or 8 where the picture is `scalable` and 8 pixels wide or more.
            rows: how many rows the caller looks at; None for all.

        Raises:
            UnreadableImage: the picture is broken, or (not `known_good`) damaged anywhere.
        """
        assert scale == 1 or (self.scalable and scale in (2, 4, 8) and self.width >= 8)
        height = -(-self.height // scale)
        wanted = height if rows is None else min(rows, height)
        found = self._decoded.get(scale)
        if found is None or len(found) < wanted:
            found = self._decode(scale, wanted)
            self._decoded[scale] = found
        return found

    def check(self) -> None:
        """Raise UnreadableImage where the picture is broken; free once anything was decoded."""
        if self._image is None and not self._decoded:
            self.pixels()

    def _decode(self, scale: int, rows: int) -> np.ndarray:
        if not self.scalable:
            return np.array(self.image())
        data, height = self._data, self.height
        if self._known_good:
            height = min(height, rows * scale + _ROWS_AHEAD)
            data = _with_rows(data, height)
        try:
            return self._decode_jpeg(data, scale, height, strict=not self._known_good)
        except ValueError:
            # Damaged. Whether it still counts as a picture is Pillow's to say.
            image = self.image()
        try:
            return self._decode_jpeg(self._data, scale, self.height, strict=False)
        except ValueError:
            return np.array(image.reduce(scale))

    def _decode_jpeg(self, data: bytes, scale: int, height: int, *, strict: bool) -> np.ndarray:
        # simplejpeg takes the smallest of libjpeg's scales that is not below these.
        shape = (-(-height // scale), -(-self.width // scale), 3)
        pixels = simplejpeg.decode_jpeg(
            data, min_height=shape[0], min_width=shape[1], strict=strict
        )
        assert pixels.shape == shape, f"{pixels.shape} instead of {shape}"
        return pixels


def _with_rows(data: bytes, rows: int) -> bytes:
    """Return the JPEG with `rows` in its frame header: its decoder then stops there."""
    at = 2
    while at + 7 <= len(data) and data[at] == 0xFF:
        if data[at + 1] in _FRAME_HEADERS:
            return data[: at + 5] + rows.to_bytes(2, "big") + data[at + 7 :]
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return data
