"""The image-text loss in PyTorch, tile by tile: any device, O((n + m) d) memory.

Two sweeps over the tiles of the logit matrix (formulas in `problem.py`, tiles in `tiles.py`): one
for the log-sum-exps, one for the gradient, which multiplies each tile of dL/dS into both sides'
rows at once. Nothing n x m is ever held. The products cost (8 d + 4 D) flops a pair, D the sum of
the sources' widths, against (6 d + 2 D) of autograd, which keeps every matrix. d scale is read off
the rows' gradient (sum_ij G_ij <x_i, y_j> = sum_i <x_i, (G y)_i>), not off the tiles.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from distill.ops.image_text.problem import (
    Coefficients,
    Gradients,
    Problem,
    Side,
    Statistics,
    coefficients,
    merge,
)
from distill.ops.image_text.tiles import (
    TileSums,
    mixture,
    sigmoid_gradient,
    sigmoid_values,
    tile_sums,
)

# Bytes of the logits of one tile, all matrices together. A CPU's cache should hold them; a GPU
# wants few, large products.
_TILE_BYTES = {"cpu": 4 << 20, "cuda": 1 << 29}


class _Tile(NamedTuple):
    """Where a tile lies, its logits, and the student's rows on both sides."""

    rows: slice
    columns: slice
    image: Float[Tensor, "b d"]
    text: Float[Tensor, "c d"]
    scores: Float[Tensor, "b c"]
    taught: list[Tensor]
    same: Bool[Tensor, "b c"] | None


def statistics(problem: Problem) -> Statistics:
    """Sweep 1."""
    rows, columns = (_empty(problem, part.shape[0]) for part in (problem.image, problem.text))
    pairs = problem.logit_scale.new_zeros(2)
    for tile in _tiles(problem):
        if problem.kind == "sigmoid":
            q, pair = _mean_target(problem, tile.taught), _pair(problem, tile)
            pairs += sigmoid_values(tile.scores, tile.same, q, pair)
            continue
        for whole, where, part in zip(
            (rows, columns), (tile.rows, tile.columns), _sides(problem, tile), strict=True
        ):
            there = Side(*(field[..., where] for field in whole))
            for field, merged in zip(there, merge(there, part), strict=True):
                field.copy_(merged)
    if problem.kind == "sigmoid":
        rows, columns = (Side(*map(torch.zeros_like, side)) for side in (rows, columns))
    return Statistics(rows, columns, pairs)


def gradients(
    problem: Problem,
    statistics: Statistics,
    grad_contrastive: Float[Tensor, ""],
    grad_affinity: Float[Tensor, ""],
) -> Gradients:
    """Sweep 2."""
    accumulated = _Accumulated.zeros(problem)
    weights = grad_contrastive, grad_affinity
    sides = None
    if problem.kind == "softmax":
        sides = coefficients(problem, statistics, *weights)
    for tile in _tiles(problem):
        if sides is None:
            accumulated.add(tile, _sigmoid_tile(problem, tile, weights), with_bias=True)
        else:
            accumulated.add(tile, _softmax_tile(problem, statistics, sides, tile))
    return accumulated.gradients(problem)


def one_sweep(problem: Problem) -> tuple[Statistics, Gradients]:
    """Both sweeps in one, for the hard sigmoid loss; `grad_contrastive` is 1."""
    assert problem.kind == "sigmoid" and not problem.sources
    accumulated, one = _Accumulated.zeros(problem), torch.ones_like(problem.logit_scale)
    pairs = problem.logit_scale.new_zeros(2)
    for tile in _tiles(problem):
        pairs += sigmoid_values(tile.scores, tile.same, None, _pair(problem, tile))
        accumulated.add(tile, _sigmoid_tile(problem, tile, (one, one)), with_bias=True)
    sides = (_empty(problem, part.shape[0]) for part in (problem.image, problem.text))
    rows, columns = (Side(*map(torch.zeros_like, side)) for side in sides)
    return Statistics(rows, columns, pairs), accumulated.gradients(problem)


def tile_side(problem: Problem) -> int:
    """Rows and columns of a tile: a power of two from the memory allowed, at least 64."""
    allowed = _TILE_BYTES.get(problem.image.device.type, _TILE_BYTES["cuda"])
    pairs = allowed // problem.dtype.itemsize // (2 + len(problem.sources))
    return max(64, 1 << (pairs.bit_length() // 2))


def _tiles(problem: Problem) -> Iterator[_Tile]:
    """Compute every tile's logits in `problem.dtype`, row strip by row strip."""
    side, high = tile_side(problem), problem.dtype
    n, m = problem.image.shape[0], problem.text.shape[0]
    for top in range(0, n, side):
        rows = slice(top, min(top + side, n))
        image = problem.image[rows].to(high)
        scaled = problem.logit_scale * image
        lefts = [source.scale * source.left[rows].to(high) for source in problem.sources]
        for start in range(0, m, side):
            columns = slice(start, min(start + side, m))
            text = problem.text[columns].to(high)
            taught = [
                _with_bias(left @ source.right[columns].to(high).T, source.bias)
                for left, source in zip(lefts, problem.sources, strict=True)
            ]
            scores = _with_bias(scaled @ text.T, problem.logit_bias)
            same = _positives(problem, rows, columns)
            yield _Tile(rows, columns, image, text, scores, taught, same)


def _with_bias(logits: Float[Tensor, "b c"], bias: Float[Tensor, ""]) -> Float[Tensor, "b c"]:
    """Add a bias in place; on a CPU, to look whether there is one costs less than a pass."""
    return logits if bias.device.type == "cpu" and bias == 0 else logits.add_(bias)


def _positives(problem: Problem, rows: slice, columns: slice) -> Bool[Tensor, "b c"] | None:
    """Mask of the tile's positives; None where it is known to have none."""
    if problem.row_ids is None:
        first, last = columns.start + problem.diagonal, columns.stop + problem.diagonal
        if rows.stop <= first or last <= rows.start:
            return None
    same = problem.same(rows, columns)
    return None if same.device.type == "cpu" and not same.any() else same


def _empty(problem: Problem, count: int) -> Side:
    """Statistics over no columns: -inf is the log of an empty sum."""
    k, like = len(problem.sources), problem.logit_scale
    return Side(
        like.new_full((1 + k, count), -torch.inf),
        like.new_zeros(k, count),
        like.new_zeros(count),
        like.new_zeros(count),
        like.new_full((count,), -torch.inf),
    )


def _sides(problem: Problem, tile: _Tile) -> tuple[Side, Side]:
    """Statistics of one tile, by row and by column."""
    scores = tile.scores
    sums = [tile_sums(scores, None), *(tile_sums(taught, scores) for taught in tile.taught)]
    negative = None
    if problem.row_divisor is not None:
        negative = sums[0]
        if tile.same is not None:
            negative = _negative_sums(scores.masked_fill(tile.same, -torch.inf))
    same = None if tile.same is None else scores.masked_fill(~tile.same, 0.0)
    sides = []
    for dim, lse, dot in ((1, "row_lse", "row_dot"), (0, "column_lse", "column_dot")):
        zeros = torch.zeros_like(getattr(sums[0], lse))
        dots = [getattr(part, dot) for part in sums[1:]]
        sides.append(
            Side(
                torch.stack([getattr(part, lse) for part in sums]),
                torch.stack(dots) if dots else zeros.new_zeros(0, zeros.shape[0]),
                zeros if same is None else same.sum(dim=dim),
                scores.sum(dim=dim) if problem.label_smoothing else zeros,
                zeros if negative is None else getattr(negative, lse),
            )
        )
    return sides[0], sides[1]


def _negative_sums(scores: Float[Tensor, "b c"]) -> TileSums:
    """Rows without a negative have -inf, which `tile_sums` would not survive."""
    return TileSums(scores.logsumexp(dim=1), scores.logsumexp(dim=0), None, None)


def _softmax_tile(
    problem: Problem,
    statistics: Statistics,
    sides: tuple[Coefficients, Coefficients],
    tile: _Tile,
) -> Float[Tensor, "b c"]:
    """dL/dS of one tile."""
    (row, column), (at, to) = sides, (tile.rows, tile.columns)
    lse = statistics.rows.lse[:, at], statistics.columns.lse[:, to]
    rows, columns = (row.student[at], lse[0][0]), (column.student[to], lse[1][0])
    gradient = mixture(tile.scores, rows, columns, bounded=True)
    for k, taught in enumerate(tile.taught):
        rows, columns = (row.source[k, at], lse[0][1 + k]), (column.source[k, to], lse[1][1 + k])
        gradient -= mixture(taught, rows, columns, bounded=True)
    if problem.label_smoothing:
        gradient.sub_(row.smooth[at, None]).sub_(column.smooth[None, to])
    if row.negative is not None and column.negative is not None:
        assert row.divisor is not None and column.divisor is not None
        row_part = row.negative[at], row.divisor[at]
        pushed = mixture(tile.scores, row_part, (column.negative[to], column.divisor[to]))
        gradient += pushed if tile.same is None else pushed.masked_fill_(tile.same, 0.0)
    if tile.same is not None:
        pulled = row.positive[at, None] + column.positive[None, to]
        gradient -= pulled.masked_fill_(~tile.same, 0.0)
    return gradient


def _sigmoid_tile(
    problem: Problem, tile: _Tile, weights: tuple[Tensor, Tensor]
) -> Float[Tensor, "b c"]:
    q, pair = _mean_target(problem, tile.taught), _pair(problem, tile)
    return sigmoid_gradient(tile.scores, tile.same, q, pair, weights)


def _pair(problem: Problem, tile: _Tile) -> Float[Tensor, "b c"]:
    """Weights of a tile's pairs in the sigmoid losses."""
    return (problem.row_share[tile.rows, None] + problem.column_share[None, tile.columns]) / 2


def _mean_target(problem: Problem, taught: list[Tensor]) -> Tensor | None:
    if not taught:
        return None
    weighted = zip(problem.sources, taught, strict=True)
    return torch.stack([source.row_weight * t.sigmoid() for source, t in weighted]).sum(dim=0)


class _Accumulated(NamedTuple):
    """Sums of G text, of G.T image, and of G itself."""

    image: Float[Tensor, "n d"]
    text: Float[Tensor, "m d"]
    bias: Float[Tensor, ""]

    @classmethod
    def zeros(cls, problem: Problem) -> "_Accumulated":
        image = torch.zeros_like(problem.image, dtype=problem.dtype)
        text = torch.zeros_like(problem.text, dtype=problem.dtype)
        return cls(image, text, torch.zeros_like(problem.logit_scale))

    def add(self, tile: _Tile, gradient: Float[Tensor, "b c"], with_bias: bool = False) -> None:
        """Multiply a tile of dL/dS into both sides' rows."""
        self.image[tile.rows].addmm_(gradient, tile.text)
        self.text[tile.columns].addmm_(gradient.T, tile.image)
        if with_bias:
            self.bias.add_(gradient.sum())

    def gradients(self, problem: Problem) -> Gradients:
        """Finish: the scale's gradient is read off the rows before they are scaled."""
        # Strip by strip: the product of all rows would be as large as both gradients.
        pairs = zip(problem.image.split(1024), self.image.split(1024), strict=True)
        parts = [(rows * found).sum(dtype=torch.float64) for rows, found in pairs]
        scale, a = torch.stack(parts).sum().to(problem.dtype), problem.logit_scale
        return Gradients(self.image.mul_(a), self.text.mul_(a), scale, self.bias)
