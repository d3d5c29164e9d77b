"""The picture operations of a view: a table of name -> function and magnitude range.

They are RandAugment's (arXiv:1909.13719) in torchvision's ranges, on 8-bit RGB pictures, without
randomness and free of the output size: translations are fractions of it, and shears and
rotations turn about its centre. Geometric operations take the nearest pixel, as torchvision and
DataCompDR do. Shears from an edge are torchvision's own, for imported views. A change of what an
operation does must raise `RENDER_VERSION`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageFilter

RENDER_VERSION = 2


@dataclass(frozen=True)
class Operation:
    """One row of the table.

    Attributes:
        apply: (image, magnitude, fill) -> image; `fill` is the grey of pixels from outside.
        weakest: the magnitude where the policy's is 0.
        strongest: the magnitude where the policy's is 1.
        signed: whether the magnitude's sign is drawn too.
    """

    apply: Callable[[Image.Image, float, int], Image.Image]
    weakest: float = 0.0
    strongest: float = 0.0
    signed: bool = False


def _identity(image: Image.Image, magnitude: float, fill: int) -> Image.Image:
    return image


def _flip(image: Image.Image, magnitude: float, fill: int) -> Image.Image:
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


def _brightness(image: Image.Image, magnitude: float, fill: int) -> Image.Image:
    return _translate_values(image, _away_from(0, magnitude))


def _contrast(image: Image.Image, magnitude: float, fill: int) -> Image.Image:
    mean = int(np.asarray(image.convert("L")).mean() + 0.5)
    return _translate_values(image, _away_from(mean, magnitude))


def _color(image: Image.Image, magnitude: float, fill: int) -> Image.Image:
    return Image.blend(image.convert("L").convert("RGB"), image, 1 + magnitude)


def _sharpness(image: Image.Image, magnitude: float, fill: int) -> Image.Image:
    return Image.blend(image.filter(ImageFilter.SMOOTH), image, 1 + magnitude)


def _posterize(image: Image.Image, magnitude: float, fill: int) -> Image.Image:
    return _translate_values(image, _kept_bits(round(magnitude)))


def _solarize(image: Image.Image, magnitude: float, fill: int) -> Image.Image:
    return _translate_values(image, _inverted_from(magnitude))


def _autocontrast(image: Image.Image, magnitude: float, fill: int) -> Image.Image:
    extrema = np.reshape(image.getextrema(), (3, 2)).tolist()
    return _translate_channels(image, [_stretched(*ends) for ends in extrema])


def _equalize(image: Image.Image, magnitude: float, fill: int) -> Image.Image:
    counts = np.array(image.histogram()).reshape(3, 256)
    return _translate_channels(image, [_equalized(channel) for channel in counts])


def _rotate(image: Image.Image, magnitude: float, fill: int) -> Image.Image:
    angle = -math.radians(magnitude)
    cos, sin = math.cos(angle), math.sin(angle)
    return _affine(image, (cos, sin, -sin, cos), fill)


def _shear_x(image: Image.Image, magnitude: float, fill: int) -> Image.Image:
    return _affine(image, (1.0, magnitude, 0.0, 1.0), fill)


def _shear_y(image: Image.Image, magnitude: float, fill: int) -> Image.Image:
    return _affine(image, (1.0, 0.0, magnitude, 1.0), fill)


def _shear_x_from_top(image: Image.Image, magnitude: float, fill: int) -> Image.Image:
    return _affine(image, (1.0, magnitude, 0.0, 1.0), fill, move_x=-magnitude * image.height / 2)


def _shear_y_from_left(image: Image.Image, magnitude: float, fill: int) -> Image.Image:
    return _affine(image, (1.0, 0.0, magnitude, 1.0), fill, move_y=-magnitude * image.width / 2)


def _translate_x(image: Image.Image, magnitude: float, fill: int) -> Image.Image:
    return _affine(image, (1.0, 0.0, 0.0, 1.0), fill, move_x=magnitude * image.width)


def _translate_y(image: Image.Image, magnitude: float, fill: int) -> Image.Image:
    return _affine(image, (1.0, 0.0, 0.0, 1.0), fill, move_y=magnitude * image.height)


OPERATIONS: dict[str, Operation] = {
    "identity": Operation(_identity),
    "flip": Operation(_flip),
    "brightness": Operation(_brightness, strongest=0.9, signed=True),
    "contrast": Operation(_contrast, strongest=0.9, signed=True),
    "color": Operation(_color, strongest=0.9, signed=True),
    "sharpness": Operation(_sharpness, strongest=0.9, signed=True),
    "posterize": Operation(_posterize, weakest=8.0, strongest=4.0),
    "solarize": Operation(_solarize, weakest=255.0, strongest=0.0),
    "autocontrast": Operation(_autocontrast),
    "equalize": Operation(_equalize),
    "rotate": Operation(_rotate, strongest=30.0, signed=True),
    "shear_x": Operation(_shear_x, strongest=0.3, signed=True),
    "shear_y": Operation(_shear_y, strongest=0.3, signed=True),
    "translate_x": Operation(_translate_x, strongest=150 / 331, signed=True),
    "translate_y": Operation(_translate_y, strongest=150 / 331, signed=True),
    "shear_x_from_top": Operation(_shear_x_from_top, strongest=0.3, signed=True),
    "shear_y_from_left": Operation(_shear_y_from_left, strongest=0.3, signed=True),
}
"""A store's view columns hold names, so rows may be added and moved."""


def _affine(
    image: Image.Image,
    matrix: tuple[float, float, float, float],
    fill: int,
    move_x: float = 0.0,
    move_y: float = 0.0,
) -> Image.Image:
    """Take output pixel p from `matrix` (p - centre) + centre - move."""
    a, b, c, d = matrix
    x, y = image.width / 2, image.height / 2
    moved_x, moved_y = x + move_x, y + move_y
    coefficients = (a, b, x - a * moved_x - b * moved_y, c, d, y - c * moved_x - d * moved_y)
    return image.transform(
        image.size,
        Image.Transform.AFFINE,
        coefficients,
        Image.Resampling.NEAREST,
        fillcolor=(fill, fill, fill),
    )


def _translate_values(image: Image.Image, table: bytes) -> Image.Image:
    """Map all values through one table: many times faster than `Image.point` with a list."""
    return Image.frombytes("RGB", image.size, image.tobytes().translate(table))


def _translate_channels(image: Image.Image, tables: list[bytes]) -> Image.Image:
    values = bytearray(image.tobytes())
    for channel, table in enumerate(tables):
        values[channel::3] = values[channel::3].translate(table)
    return Image.frombytes("RGB", image.size, bytes(values))


@lru_cache(maxsize=4096)
def _away_from(grey: int, magnitude: float) -> bytes:
    values = grey + (1 + magnitude) * (np.arange(256) - grey)
    return np.clip(values, 0, 255).astype(np.uint8).tobytes()


@lru_cache(maxsize=256)
def _kept_bits(bits: int) -> bytes:
    mask = 0xFF & ~(2 ** (8 - bits) - 1)
    return bytes(value & mask for value in range(256))


@lru_cache(maxsize=256)
def _inverted_from(threshold: float) -> bytes:
    return bytes(value if value < threshold else 255 - value for value in range(256))


@lru_cache(maxsize=4096)
def _stretched(low: int, high: int) -> bytes:
    if high <= low:
        return bytes(range(256))
    scale = 255.0 / (high - low)
    values = np.arange(256) * scale - low * scale
    return np.clip(values, 0, 255).astype(np.uint8).tobytes()


def _equalized(counts: np.ndarray) -> bytes:
    """Pillow's integer arithmetic without its loop over the values."""
    step = int(counts.sum() - counts[counts.nonzero()[0][-1]]) // 255
    if step == 0:
        return bytes(range(256))
    before = np.cumsum(counts) - counts
    return np.minimum((before + step // 2) // step, 255).astype(np.uint8).tobytes()
