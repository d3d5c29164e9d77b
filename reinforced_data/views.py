"""Views: augmentations that replay exactly, for the teacher today and any student later.

As in MobileCLIP's reinforced datasets (arXiv:2311.17049): random resized crop, then RandAugment.
Unlike there, a view holds no pixel units, so it means the same at every output size and on a
resized copy of the image, and it is a function of (seed, key, view index) alone. Flipping is off
by default, because it changes what texts say ("on the left", "P").
"""

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from reinforced_data.operations import OPERATIONS, RENDER_VERSION
from reinforced_data.pictures import Picture
from reinforced_data.resampling import RESAMPLERS
from reinforced_data.view_policy import ViewPolicy
from teachers.contract import Preprocess


@dataclass(frozen=True)
class View:
    """One augmentation of one image; all numbers are exact in float32.

    Attributes:
        crop: left, top, width and height as fractions of the image.
        ops: operations in order, each with its own magnitude.
        fill: the grey of what geometric operations pull in from outside.
        version: the render version; a store keeps that with which it was begun.
    """

    crop: tuple[float, float, float, float]
    ops: tuple[tuple[str, float], ...] = ()
    fill: int = 0
    version: int = RENDER_VERSION


def sample_view(
    policy: ViewPolicy,
    seed: int,
    key: str,
    index: int,
    aspect: float = 1.0,
    version: int = RENDER_VERSION,
) -> View:
    """Draw view `index` of the sample `key`; the same arguments give the same view for ever.

    Args:
        policy: what to draw from.
        seed: the view set's seed.
        key: the sample's key.
        index: which of its views.
        aspect: the image's width / height, so that the crop's ratio is one of pixels.
        version: how the view is to be rendered; it changes nothing about what is drawn.
    """
    draw = _uniforms(seed, key, index)
    crop = _sample_crop(policy, draw, aspect)
    ops = [("flip", 0.0)] if next(draw) < policy.flip else []
    for _ in range(policy.num_ops):
        name = policy.operations[int(next(draw) * len(policy.operations))]
        positive = next(draw) < 0.5
        row = OPERATIONS[name]
        magnitude = row.weakest + (row.strongest - row.weakest) * policy.magnitude
        magnitude = magnitude if positive or not row.signed else -magnitude
        ops.append((name, float(np.float32(magnitude))))
    return View(crop, tuple(ops), policy.fill, version)


def _uniforms(seed: int, key: str, index: int) -> Iterator[float]:
    """Yield numbers in [0, 1): SHA-256 of seed, view, block and key, eight bytes each."""
    for block in count():
        digest = hashlib.sha256(f"{seed}/{index}/{block}/{key}".encode()).digest()
        for start in range(0, 32, 8):
            yield (int.from_bytes(digest[start : start + 8], "big") >> 11) * 2.0**-53


def _sample_crop(
    policy: ViewPolicy, draw: Iterator[float], aspect: float
) -> tuple[float, float, float, float]:
    low, high = (math.log(bound) for bound in policy.ratio)
    for _ in range(10):
        area = policy.scale[0] + (policy.scale[1] - policy.scale[0]) * next(draw)
        ratio = math.exp(low + (high - low) * next(draw)) / aspect
        width, height = math.sqrt(area * ratio), math.sqrt(area / ratio)
        if width <= 1 and height <= 1:
            break
    else:
        # As in torchvision: the middle, as large as the ratio allows.
        ratio = min(max(aspect, policy.ratio[0]), policy.ratio[1]) / aspect
        width, height = min(1.0, ratio), min(1.0, 1 / ratio)
        return _float32((1 - width) / 2, (1 - height) / 2, width, height)
    return _float32((1 - width) * next(draw), (1 - height) * next(draw), width, height)


def _float32(*values: float) -> Any:
    # A store keeps float32; teacher and student must see the same box before and after.
    return tuple(np.array(values, dtype=np.float32).tolist())


def render_view(
    picture: Picture, view: View, preprocess: Preprocess
) -> UInt8[np.ndarray, "size size 3"]:
    """Render a view at a model's own size: crop and resize, then the operations.

    Deterministic, and the one function through which teachers and students see views.

    Raises:
        UnreadableImage: the picture is broken; nothing was decoded before.
    """
    pixels = RESAMPLERS[view.version](picture, view.crop, preprocess)
    if not view.ops:
        return pixels
    image = Image.fromarray(pixels)
    for name, magnitude in view.ops:
        image = OPERATIONS[name].apply(image, magnitude, view.fill)
    return np.array(image)
