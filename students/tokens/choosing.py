"""Which patches of a picture stay: random, grid, block, and by scores; pure functions.

All draws are a hash of (sample's seed, place), computed where the pictures are: nothing waits for
a device, a resumed run draws the same, and so do two processes in place of one and both forwards of
the gradient cache. Every choice is a fixed number of indices, in ascending order.
"""

import hashlib
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional as F

_GOLDEN = -7046029254386353131  # 2**64 / golden ratio, odd, as a signed integer
_MIX = (-4658895280553007687, -7723592293110705685)


def sample_seeds(seed: int, step: int, keys: Sequence[str]) -> Int64[Tensor, " n"]:
    """A seed of 63 bits for each sample of a step, on the CPU."""
    digests = (
        hashlib.blake2b(f"tokens/{seed}/{step}/{key}".encode(), digest_size=8).digest()
        for key in keys
    )
    values = [int.from_bytes(digest, "little") >> 1 for digest in digests]
    return torch.tensor(values, dtype=torch.int64)


def hashed(seeds: Int64[Tensor, " n"], count: int, stream: int = 0) -> Int64[Tensor, "n count"]:
    """Draw `count` integers of 63 bits from each seed (splitmix64); streams are independent."""
    places = torch.arange(count, device=seeds.device) + (1 + (stream << 32))
    x = seeds[:, None] + places * _GOLDEN
    for shift, factor in ((30, _MIX[0]), (27, _MIX[1])):
        x = (x ^ _shifted(x, shift)) * factor
    return _shifted(x ^ _shifted(x, 31), 1)


def _shifted(x: Tensor, bits: int) -> Tensor:
    """Shift to the right as if there were no sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def uniform(seeds: Int64[Tensor, " n"], count: int, stream: int = 0) -> Float[Tensor, "n count"]:
    """The same draws as numbers in [0, 1), in float64: 53 bits of each."""
    return (hashed(seeds, count, stream) >> 10).double() * 2.0**-53


def how_many(patches: int, keep: float) -> int:
    """Patches that stay of `patches`: never none."""
    return max(1, round(patches * keep))


def random_patches(
    seeds: Int64[Tensor, " n"], grid: tuple[int, int], keep: float
) -> Int64[Tensor, "n kept"]:
    """Any patches (FLIP)."""
    patches = grid[0] * grid[1]
    order = hashed(seeds, patches).argsort(dim=-1)
    return order[:, : how_many(patches, keep)].sort(dim=-1).values


def grid_patches(
    seeds: Int64[Tensor, " n"], grid: tuple[int, int], keep: float
) -> Int64[Tensor, "n kept"]:
    """Patches from every window of 2 x 2, as evenly as can be: at 0.25, one from each (CLIPA)."""
    rows, columns = grid
    patches = rows * columns
    draws = hashed(seeds, patches).view(-1, rows, columns)
    last = 1 << 62  # in float64, which is what a padding value is; draws below stay below
    padded = F.pad(draws >> 1, (0, columns % 2, 0, rows % 2), value=last)
    windows = padded.unflatten(2, (-1, 2)).unflatten(1, (-1, 2)).permute(0, 1, 3, 2, 4).flatten(3)
    # How many of its window come before a patch; the window's own draw decides between windows.
    rank = (windows[..., None, :] < windows[..., :, None]).sum(-1)
    rank = rank.unflatten(3, (2, 2)).permute(0, 1, 3, 2, 4).flatten(3).flatten(1, 2)
    rank = rank[:, :rows, :columns].flatten(1)
    order = (rank + uniform(seeds, patches, stream=1)).argsort(dim=-1)
    return order[:, : how_many(patches, keep)].sort(dim=-1).values


def block_patches(
    seeds: Int64[Tensor, " n"], grid: tuple[int, int], keep: float
) -> Int64[Tensor, "n kept"]:
    """One rectangle of the picture's own proportions, anywhere (CLIPA)."""
    sides = [max(1, round(side * keep**0.5)) for side in grid]
    draws = hashed(seeds, 2)
    top, left = (draws[:, i] % (grid[i] - sides[i] + 1) for i in (0, 1))
    rows = top[:, None] + torch.arange(sides[0], device=seeds.device)
    columns = left[:, None] + torch.arange(sides[1], device=seeds.device)
    return (rows[:, :, None] * grid[1] + columns[:, None, :]).flatten(1)


def best_patches(
    scores: Float[Tensor, "n h w"], grid: tuple[int, int], keep: float
) -> Int64[Tensor, "n kept"]:
    """The patches with the highest scores, which may come from another grid (A-CLIP).

    A patch's score is the mean of the scores that lie in it. Of equal ones the first stay.
    """
    if tuple(scores.shape[1:]) != tuple(grid):
        scores = resampled(scores, grid)
    order = scores.flatten(1).argsort(dim=-1, descending=True, stable=True)
    return order[:, : how_many(grid[0] * grid[1], keep)].sort(dim=-1).values


def resampled(
    scores: Float[Tensor, "n h w"], grid: tuple[int, int]
) -> Float[Tensor, "n rows columns"]:
    """Scores on another grid of the same picture: means over areas, exactly."""
    for dim, size in ((1, grid[0]), (2, grid[1])):
        scores = torch.movedim(
            torch.movedim(scores, dim, -1) @ _areas(scores.shape[dim], size).to(scores), -1, dim
        )
    return scores


def _areas(before: int, after: int) -> Float[Tensor, "before after"]:
    """What share of each new cell is covered by each old one, along one side."""
    old = torch.linspace(0, 1, before + 1, dtype=torch.float64)
    new = torch.linspace(0, 1, after + 1, dtype=torch.float64)
    upper = torch.minimum(old[1:, None], new[None, 1:])
    lower = torch.maximum(old[:-1, None], new[None, :-1])
    return (upper - lower).clamp_min(0) * after


CHOICES = {"random": random_patches, "grid": grid_patches, "block": block_patches}
