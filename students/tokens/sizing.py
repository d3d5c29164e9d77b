"""Smaller pictures: any tower that takes them, with position embeddings made to fit.

CLIPA's (arXiv:2305.07017) best way to fewer tokens for transformers, and the only one for
convolutions, whose work is proportional to the area. Pictures are made smaller where they are, from
those that the run reads, so that one run may change its size on the way. A transformer's learned
positions are resampled inside the step (bicubic, as timm does when it loads weights for another
size), and learn through it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from timm.layers.pos_embed import resample_abs_pos_embed
from torch import Tensor, nn
from torch.nn import functional as F

from teachers.vision_transformers import Vit


def smaller_side(side: int, keep: float, vit: Vit | None) -> int:
    """The side in pixels of a picture with about `keep` of the area: whole patches, or strides."""
    if vit is not None:
        return max(1, round(vit.grid[0] * keep**0.5)) * vit.patch
    # What convolutions halve five times stays even; small pictures are halved less often.
    unit = 32 if side >= 128 else 8
    return max(1, round(side * keep**0.5 / unit)) * unit


def resize(images: Float[Tensor, "n 3 h w"], side: int) -> Float[Tensor, "n 3 side side"]:
    """Shrink normalised pictures, averaging what falls together."""
    return F.interpolate(images, size=(side, side), mode="bilinear", antialias=True)


@contextmanager
def fitted_positions(vit: Vit, side: int) -> Iterator[None]:
    """Let a transformer take pictures of `side` pixels for a while."""
    tower, grid = vit.tower, (side // vit.patch, side // vit.patch)
    if getattr(tower, "dynamic_img_size", False):  # timm's own way to do the same
        yield
        return
    # A name of its own for open_clip's positions, which have no leading dimension of 1.
    ours = "positional_embedding" in tower._parameters
    name = "positional_embedding" if ours else "pos_embed"
    whole = tower._parameters[name]
    prefix = 0 if getattr(tower, "no_embed_class", False) else vit.prefix
    fitted = resample_abs_pos_embed(
        whole[None] if ours else whole,
        new_size=list(grid),
        old_size=list(vit.grid),
        num_prefix_tokens=prefix,
    )
    stem: Any = getattr(tower, "patch_embed", nn.Identity())
    strict = getattr(stem, "strict_img_size", None)
    # Not a parameter: gradients go through the resampling to the one that is.
    tower._parameters[name] = fitted[0] if ours else fitted
    if strict is not None:
        stem.strict_img_size = False
    try:
        yield
    finally:
        tower._parameters[name] = whole
        if strict is not None:
            stem.strict_img_size = strict


def takes(module: nn.Module, vit: Vit | None, side: int) -> str | None:
    """Why a dual encoder's image tower cannot take pictures of this size; None if it can."""
    device = next(module.parameters()).device
    pixels = torch.zeros(1, 3, side, side, device=device)
    encode: Any = module.encode_image
    try:
        with torch.no_grad():
            if vit is None:
                encode(pixels)
            else:
                with fitted_positions(vit, side):
                    encode(pixels)
    except (RuntimeError, AssertionError, ValueError) as error:
        return str(error).splitlines()[0] if str(error) else type(error).__name__
    return None
