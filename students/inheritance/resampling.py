"""Weights that live on a grid, brought to another grid: patches, kernels, positions.

A patch embedding is resized so that it answers a picture shown larger or smaller as it answered
the picture itself (FlexiViT's pseudo-inverse, arXiv:2212.08013); other kernels are cut or padded
around their centre; a picture's positions are interpolated; a text's keep their numbers.
"""

import math
from functools import cache

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def resize_patches(
    weight: Float[Tensor, "*channels h w"], size: tuple[int, int]
) -> Float[Tensor, "*channels a b"]:
    """Resize patch-embedding kernels by the pseudo-inverse of resizing the patch.

    With B the matrix that resizes a patch of the old size to the new, the new kernel w' solves
    B^T w' = w (exactly when the patch grows, by least squares when it shrinks), so that
    <B x, w'> = <x, w> for every patch x.
    """
    old = (weight.shape[-2], weight.shape[-1])
    inverse = torch.linalg.pinv(_resizing(old, size).T)
    flat = weight.double().flatten(-2) @ inverse.T
    return flat.unflatten(-1, size).to(weight.dtype)


@cache
def _resizing(old: tuple[int, int], new: tuple[int, int]) -> Float[Tensor, "new old"]:
    """The matrix of bilinear resizing, in float64 (anti-aliased where the patch shrinks)."""
    basis = torch.eye(old[0] * old[1], dtype=torch.float64).view(-1, 1, *old)
    antialias = new[0] < old[0] or new[1] < old[1]
    resized = F.interpolate(basis, new, mode="bilinear", antialias=antialias)
    return resized.flatten(1).T


def recentre(
    weight: Float[Tensor, "*channels h w"], size: tuple[int, int]
) -> Float[Tensor, "*channels a b"]:
    """Cut or zero-pad kernels around their centre: a padded one computes the same."""
    padding: list[int] = []
    for have, want in zip(weight.shape[:-3:-1], size[::-1], strict=True):
        before = (want - have) // 2
        padding += [before, want - have - before]
    return F.pad(weight, padding)


def grid_of(tokens: int) -> tuple[int, int] | None:
    """Split a token count into (extra tokens, side of the square grid); None when no split fits.

    Class and register tokens come first; there are at most 8 of them.
    """
    for extra in range(min(9, tokens)):
        side = math.isqrt(tokens - extra)
        if side * side == tokens - extra:
            return extra, side
    return None


def resize_positions(
    table: Float[Tensor, "tokens width"], tokens: int
) -> Float[Tensor, "rows width"]:
    """Interpolate a picture's positions (bicubic).

    Extra tokens are kept as far as there are some: the result has fewer than `tokens` rows when
    the new table has more of them than the old. Both counts must be grids (`grid_of`).
    """
    old, new = grid_of(table.shape[0]), grid_of(tokens)
    assert old is not None and new is not None
    extra = min(old[0], new[0])
    grid = table[old[0] :].T.reshape(1, -1, old[1], old[1]).float()
    if old[1] != new[1]:
        shrinks = new[1] < old[1]
        grid = F.interpolate(grid, (new[1], new[1]), mode="bicubic", antialias=shrinks)
    rows = grid.flatten(2)[0].T.to(table.dtype)
    return torch.cat([table[old[0] - extra : old[0]], rows])


def cut_positions(table: Float[Tensor, "tokens width"], tokens: int) -> Float[Tensor, "new width"]:
    """A text's positions keep their numbers; beyond the donor's last, its last is repeated."""
    if tokens <= table.shape[0]:
        return table[:tokens]
    return torch.cat([table, table[-1:].expand(tokens - table.shape[0], -1)])
