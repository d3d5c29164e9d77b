"""A view's crop at a model's size: how each render version makes it.

Stored embeddings hang on the pixels, so a store is replayed for ever as it was written. A new way
of rendering is a new row of `RESAMPLERS` and a higher `RENDER_VERSION`; no row is ever changed.
Both ways are antialiased and a function of picture, crop, size and filter alone: neither what
else was rendered before nor the number of threads or the processor's instructions matters.
"""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import UInt8
from torch.nn.functional import interpolate

from reinforced_data.pictures import Picture
from teachers.contract import Preprocess

Crop = tuple[float, float, float, float]
# Below this libjpeg's scales round to the same sizes.
_LEAST_SIZE = 8
# Half a pixel, by which a cut at whole pixels is off, is little of a crop of so many.
_CUT_FROM = 64


def decode_scale(picture: Picture, crop: Crop, size: int) -> int:
    """Return s of 1, 2, 4, 8: the greatest for which the crop at 1/s still has `size` pixels.

    What is not a plain JPEG is never scaled.
    """
    if not picture.scalable:
        return 1
    shorter = min(crop[2] * picture.width, crop[3] * picture.height)
    fits = shorter / max(size, _LEAST_SIZE)
    return next((scale for scale in (8, 4, 2) if fits >= scale), 1)


def _in_one_step(
    picture: Picture, crop: Crop, look: Preprocess
) -> UInt8[np.ndarray, "size size 3"]:
    """Version 1: Pillow's resize of the fully decoded picture, from exactly the crop's box."""
    width, height = picture.width, picture.height
    left, top, crop_width, crop_height = crop
    box = (
        left * width,
        top * height,
        min((left + crop_width) * width, width),
        min((top + crop_height) * height, height),
    )
    size = (look.image_size, look.image_size)
    return np.array(picture.image().resize(size, look.resampling, box=box))


def _from_scaled_decode(
    picture: Picture, crop: Crop, look: Preprocess
) -> UInt8[np.ndarray, "size size 3"]:
    """Version 2: decode at 1/s, cut at whole pixels of that, torch's 8-bit antialiased resize.

    A crop of few pixels is made as in version 1: whole ones would move its content.
    """
    if min(crop[2] * picture.width, crop[3] * picture.height) < _CUT_FROM:
        return _in_one_step(picture, crop, look)
    size = look.image_size
    scale = decode_scale(picture, crop, size)
    left, right = _whole_pixels(crop[0], crop[2], picture.width, scale)
    top, bottom = _whole_pixels(crop[1], crop[3], picture.height, scale)
    # A copy of the cut: torch has a faster way for rows that follow one another.
    cut = np.ascontiguousarray(picture.pixels(scale, bottom)[top:bottom, left:right])
    tensor = torch.from_numpy(cut).permute(2, 0, 1)[None]
    resized = interpolate(tensor, (size, size), mode=look.interpolation, antialias=True)
    return resized[0].permute(1, 2, 0).numpy()


def _whole_pixels(start: float, length: float, total: int, scale: int) -> tuple[int, int]:
    """Round both ends to pixels of the scaled picture; at least one pixel is between them."""
    end = min(int((start + length) * total / scale + 0.5), -(-total // scale))
    end = max(end, 1)
    return min(int(start * total / scale + 0.5), end - 1), end


RESAMPLERS: dict[int, Callable[[Picture, Crop, Preprocess], np.ndarray]] = {
    1: _in_one_step,
    2: _from_scaled_decode,
}
"""`render_version` -> how a crop becomes a square."""


def check_render_version(version: int, where: str) -> None:
    """Refuse views that this release cannot render as they were rendered then.

    Raises:
        ValueError: `version` is none of `RESAMPLERS`.
    """
    if version not in RESAMPLERS:
        known = " and ".join(map(str, RESAMPLERS))
        raise ValueError(
            f"{where} was rendered by version {version!r} of the views' rendering; this release "
            f"has versions {known}, and other pixels would not fit the stored embeddings. "
            "Install the clip-distill that wrote it, or a later one"
        )
