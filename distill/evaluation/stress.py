"""Pictures made harder, at the model's own size: what is left of a score then.

Corruptions: seven of ImageNet-C's (Hendrycks and Dietterich, arXiv:1903.12261), with its
strengths, lengths scaled from 224 pixels. Typographic attack: another class's name written onto the
picture (Goh et al. 2021; LoGoPrompt, arXiv:2309.01155, uses the same for good). Resolutions: fewer
pixels, brought back to the model's size, for a phone that sends small pictures. Randomness is a
function of the key. Left out: weather, elastic and zoom corruptions.
"""

import hashlib
import io
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from matplotlib import font_manager
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from distill.evaluation.embedding import Change, Pixels
from reinforced_data.source import Sample
from teachers.suggestions import unknown_name

SEVERITIES = (1, 2, 3, 4, 5)
_IMAGENET = 224
# By severity, as in ImageNet-C's code; blur is its extra "gaussian_blur".
_NOISE = (0.08, 0.12, 0.18, 0.26, 0.38)
_BLUR = (1.0, 2.0, 3.0, 4.0, 6.0)
_CONTRAST = (0.4, 0.3, 0.2, 0.1, 0.05)
_BRIGHTNESS = (0.1, 0.2, 0.3, 0.4, 0.5)
# A factor, and what is added after it.
_SATURATION = ((0.3, 0.0), (0.1, 0.0), (2.0, 0.0), (5.0, 0.1), (20.0, 0.2))
_PIXELATE = (0.6, 0.5, 0.4, 0.3, 0.25)
_JPEG = (25, 18, 15, 10, 7)
# Of the picture's height: clearly to be read, and most of the picture still to be seen.
_LETTERS = 0.2


def _noise(pixels: Pixels, level: int, draws: np.random.Generator) -> Pixels:
    return _from_unit(pixels / 255 + draws.normal(scale=_NOISE[level], size=pixels.shape))


def _blur(pixels: Pixels, level: int, _: np.random.Generator) -> Pixels:
    radius = _BLUR[level] * len(pixels) / _IMAGENET
    return np.array(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(radius)))


def _contrast(pixels: Pixels, level: int, _: np.random.Generator) -> Pixels:
    unit = pixels / 255
    mean = unit.mean((0, 1), keepdims=True)
    return _from_unit((unit - mean) * _CONTRAST[level] + mean)


def _brightness(pixels: Pixels, level: int, _: np.random.Generator) -> Pixels:
    # The value of HSV is the greatest of the three colours; raising it scales them.
    value = pixels.max(2, keepdims=True) / 255
    raised = np.minimum(value + _BRIGHTNESS[level], 1.0)
    scaled = pixels / 255 * raised / np.maximum(value, 1e-9)
    return _from_unit(np.where(value > 0, scaled, raised))


def _saturation(pixels: Pixels, level: int, _: np.random.Generator) -> Pixels:
    unit = pixels / 255
    value = unit.max(2, keepdims=True)
    spread = value - unit.min(2, keepdims=True)
    # How far each colour is from the greatest, in parts of the spread: the hue. Grey's is red's.
    away = np.where(spread > 0, (value - unit) / np.maximum(spread, 1e-9), (0.0, 1.0, 1.0))
    factor, added = _SATURATION[level]
    # HSV's saturation, at most all of it.
    saturation = np.minimum(spread / np.maximum(value, 1e-9) * factor + added, 1.0)
    return _from_unit(value - value * saturation * away)


def _pixelate(pixels: Pixels, level: int, _: np.random.Generator) -> Pixels:
    size = len(pixels)
    # Cut, not rounded, as ImageNet-C's code does.
    few = max(1, int(size * _PIXELATE[level]))
    small = Image.fromarray(pixels).resize((few, few), Image.Resampling.BOX)
    return np.array(small.resize((size, size), Image.Resampling.BOX))


def _jpeg(pixels: Pixels, level: int, _: np.random.Generator) -> Pixels:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=_JPEG[level])
    return np.array(Image.open(buffer).convert("RGB"))


CORRUPTIONS: dict[str, Callable[[Pixels, int, np.random.Generator], Pixels]] = {
    "noise": _noise,
    "blur": _blur,
    "contrast": _contrast,
    "brightness": _brightness,
    "saturation": _saturation,
    "pixelate": _pixelate,
    "jpeg": _jpeg,
}


def corruption(name: str, severity: int) -> Change:
    """Return what `evaluate(change=)` takes for one corruption.

    Raises:
        ValueError: an unknown name, or a severity that is none of 1 to 5.
    """
    if name not in CORRUPTIONS:
        raise unknown_name("corruption", name, CORRUPTIONS)
    if severity not in SEVERITIES:
        raise ValueError(f"severity must be one of {SEVERITIES}, got {severity}")
    return partial(_corrupt, name=name, severity=severity)


def _corrupt(pixels: Pixels, sample: Sample, *, name: str, severity: int) -> Pixels:
    return CORRUPTIONS[name](pixels, severity - 1, _draws(sample.key))


def lower_resolution(size: int) -> Change:
    """Return the change to `size` pixels a side and back; a smaller model's pixels stay.

    Raises:
        ValueError: a size below 1.
    """
    if size < 1:
        raise ValueError(f"a resolution must be at least 1 pixel, got {size}")
    return partial(_lower, size=size)


def _lower(pixels: Pixels, sample: Sample, *, size: int) -> Pixels:
    if len(pixels) <= size:
        return pixels
    small = Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC)
    return np.array(small.resize(pixels.shape[1::-1], Image.Resampling.BICUBIC))


def written_class(sample: Sample, classes: Sequence[str]) -> str:
    """Return the class whose name the attack writes onto a sample: any but its own.

    Raises:
        ValueError: there is no other class.
    """
    others = [name for name in classes if name != sample.label]
    if not others:
        raise ValueError("a typographic attack needs at least two classes")
    return others[int(_draws(sample.key).integers(len(others)))]


def typographic_attack(classes: Sequence[str]) -> Change:
    """Return the change that writes another class's name onto each picture."""
    return lambda pixels, sample: write_on(pixels, written_class(sample, classes), sample.key)


def write_on(pixels: Pixels, text: str, key: str) -> Pixels:
    """Write white letters with a dark edge, as wide as fits, at a height drawn by key."""
    size = len(pixels)
    image = Image.fromarray(pixels.copy())
    draw = ImageDraw.Draw(image)
    font = _font(size * _LETTERS)
    width = draw.textlength(text, font=font)
    font = _font(size * _LETTERS * min(1.0, 0.96 * size / max(width, 1.0)))
    free = 1 - font.size * 1.2 / size
    top = size * max(free, 0.0) * float(_draws(f"{key}/place").random())
    draw.text(
        (size / 2, top), text, fill="white", font=font, anchor="ma", stroke_width=1, stroke_fill=0
    )
    return np.array(image)


def _font(size: float) -> ImageFont.FreeTypeFont:
    # The face that comes with matplotlib: the same letters on every machine.
    path = font_manager.findfont("DejaVu Sans", fallback_to_default=False)
    return ImageFont.truetype(path, max(4.0, size))


def _draws(key: str) -> np.random.Generator:
    # The 0 keeps every draw, and so the scores of earlier versions.
    digest = hashlib.sha256(f"0/{key}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "little"))


def _from_unit(values: np.ndarray) -> Pixels:
    return np.clip(values * 255 + 0.5, 0, 255).astype(np.uint8)
