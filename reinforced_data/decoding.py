"""Encoded bytes to RGB pixels, the same pixels for teachers and students.

One decoder per kind of file, always the same one, because stored embeddings hang on the pixels:
libjpeg-turbo through simplejpeg for plain JPEG (Pillow's pixels in half the time on thumbnails),
Pillow for everything else. The size is read from the header before anything is decoded, and only
the four formats of a source are ever tried. EXIF orientation is ignored, as open_clip does.
"""

import io

import numpy as np
import simplejpeg
from PIL import Image, JpegImagePlugin, PngImagePlugin, WebPImagePlugin

MAX_PIXELS = 1 << 26
# A line of pixels costs memory beside its pixels: 1 x 60,000,000 would be a bomb of its own.
MAX_SIDE = 1 << 16


class UnreadableImage(ValueError):  # noqa: N818 - it reads better where it is caught
    """An image that is refused; `reason` is the word that reports count."""

    def __init__(self, reason: str, detail: str) -> None:
        """Keep the reason beside the message."""
        super().__init__(f"{reason}: {detail}")
        self.reason = reason


def image_size(data: bytes, *, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Read (width, height) from the header.

    Raises:
        UnreadableImage: not a JPEG, PNG or WebP, a broken header, more than `max_pixels`, or a
            side above `MAX_SIDE`.
    """
    return _open(data, max_pixels).size


def decode_image(data: bytes, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode to RGB; transparency is flattened on white, of an animation the first frame counts.

    Raises:
        UnreadableImage: not a JPEG, PNG or WebP, broken, or too large (see `image_size`).
    """
    if plain_jpeg_size(data, max_pixels) is not None:
        pixels = _decode_plain_jpeg(data)
        if pixels is not None:
            return Image.fromarray(pixels)
    image = _open(data, max_pixels)
    try:
        image.load()
        return _to_rgb(image)
    except Exception as error:
        # Decoders raise whatever they like on broken bytes: OSError, SyntaxError, zlib.error ...
        raise UnreadableImage("undecodable", str(error)) from error


def plain_jpeg_size(data: bytes, max_pixels: int = MAX_PIXELS) -> tuple[int, int] | None:
    """Read (width, height) of a JPEG in grey, YCbCr or RGB; None where Pillow has to decide."""
    if data[:3] != b"\xff\xd8\xff":
        return None
    try:
        height, width, colorspace, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return None
    plain = colorspace in ("YCbCr", "RGB", "Gray") and int(width) * int(height) <= max_pixels
    return (int(width), int(height)) if plain else None


def _decode_plain_jpeg(data: bytes) -> np.ndarray | None:
    try:
        return simplejpeg.decode_jpeg(data)
    except ValueError:
        return None


def _open(data: bytes, max_pixels: int) -> Image.Image:
    plugin = None
    if data[:3] == b"\xff\xd8\xff":
        plugin = JpegImagePlugin.JpegImageFile
    elif data[:8] == b"\x89PNG\r\n\x1a\n":
        plugin = PngImagePlugin.PngImageFile
    elif data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        plugin = WebPImagePlugin.WebPImageFile
    if plugin is None:
        raise UnreadableImage("not-an-image", f"neither JPEG, PNG nor WebP: {data[:8]!r}...")
    try:
        # The plugin itself and not Image.open: half the time, and no other format is tried.
        image = plugin(io.BytesIO(data))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UnreadableImage("too-many-pixels", str(error)) from error
    except Exception as error:
        raise UnreadableImage("undecodable", str(error)) from error
    if image.width * image.height > max_pixels or max(image.size) > MAX_SIDE:
        raise UnreadableImage(
            "too-many-pixels",
            f"{image.width} x {image.height}; the limit is {max_pixels}, and {MAX_SIDE} a side",
        )
    return image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        # A copy without the file behind it.
        return image.copy()
    if image.mode.startswith("I"):
        # 16-bit grey; Pillow would clip it at 255.
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        layer = image.convert("RGBA")
        flat = Image.new("RGB", layer.size, (255, 255, 255))
        flat.paste(layer, mask=layer.getchannel("A"))
        return flat
    return image.convert("RGB")
