"""The sweeps over super-tiles of logits: sums, then dL/dlogit times the rows on its other side.

Scratch is a constant number of pairs, so extra memory is O(N d). Back ends differ in who
multiplies: "fused" computes a tile of products where it is used, "library" lets cuBLAS write
float32 products of a super-tile first (siglip-kernel found the latter faster on Hopper). The rows'
gradient is cuBLAS's in both: dL/dlogit of a super-tile is kept in float16 (three more bits than
bfloat16; scaled, so that 1/N does not underflow) and multiplied into float32.
Leaves out what a loss is made of: `triton_problem.py`.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float32, Int32
from torch import Tensor

from distill.ops.image_text.triton_launch import (
    LOG2_E,
    Operands,
    Scratch,
    add_sums,
    fill_gradient,
    multiply,
    on_device_of,
    replace_if_unsafe,
    sigmoid_window,
)
from distill.ops.image_text.triton_tiling import Tiling, Window

# Exponentials go up to 2^100: sums over 2^27 columns stay finite. Sums below 2^-100 are not
# trusted: what fell below 2^-126 was lost to them.
HEAD_ROOM = 100.0
# Largest |dL/dlogit| in float16, far from its largest number.
FLOAT16_TOP = 2.0**14


class Softmaxes(NamedTuple):
    """One direction's statistics of K + 1 matrices, the student's first; biases left out.

    `log_sums`: log-sum-exp of each matrix, then the student's over its negatives if asked for.
    `means`: mean student product under each source's softmax. `positives`: sum of the student's
    products with the positives; None without ids.
    """

    log_sums: Float32[Tensor, "parts n"]
    means: Float32[Tensor, "k n"]
    positives: Float32[Tensor, " n"] | None


class Vectors(NamedTuple):
    """One direction of the softmax gradient, as `gradient_kernel` has it.

    `coefficients` and `log_sums` of each matrix, then of the negatives; `log_sums` without biases.
    `bound`: no dL/dlogit exceeds the sum of the two directions' bounds.
    """

    positive: Float32[Tensor, " n"]
    coefficients: Float32[Tensor, "parts n"]
    log_sums: Float32[Tensor, "parts n"]
    bound: Float32[Tensor, ""]


class Products(NamedTuple):
    """dL/dlogit times the student's text rows, and its transpose times the image rows."""

    image: Float32[Tensor, "n d"]
    text: Float32[Tensor, "m d"]


class Pairs(NamedTuple):
    """The sigmoid losses: both values, the sum of dL/dlogit, its products; None if not asked."""

    values: Float32[Tensor, " 2"]
    gradient_sum: Float32[Tensor, ""]
    products: Products | None


def softmax_sums(operands: Operands, tiling: Tiling) -> tuple[Softmaxes, Softmaxes]:
    """Statistics of rows and of columns."""
    n, m = operands.shape
    tiling = tiling.without_scratch()
    like, count = operands.scales, len(operands.lefts)
    shifts = _shifts(operands)
    sums = like.new_zeros(operands.num_sums, n), like.new_zeros(operands.num_sums, m)
    scratch = Scratch.of(operands, tiling)
    with on_device_of(like):
        for window in tiling.windows(n, m):
            add_sums(operands, tiling, window, scratch, -shifts, *sums)
        masses = [_masses(operands, part) for part in sums]
        unsafe = torch.stack([(mass < 2.0**-HEAD_ROOM).any() for mass in masses]).any().int()
        made = []
        for part, mass, side in zip(sums, masses, (operands, operands.transposed()), strict=True):
            log_sums = mass.log2()
            log_sums[:count] += shifts[:, None]
            log_sums[count:] += shifts[0]
            means = part[count : 2 * count - 1] / mass[1:count]
            replace_if_unsafe(side, unsafe, log_sums, means)
            positives = part[2 * count - 1] if operands.row_ids is not None else None
            made.append(Softmaxes(log_sums / LOG2_E, means, positives))
    return made[0], made[1]


def softmax_gradient(
    operands: Operands, tiling: Tiling, rows: Vectors, columns: Vectors
) -> Products:
    """Sweep two of the softmax losses."""
    shifts = _shifts(operands)
    if operands.negatives:
        shifts_of_parts = torch.cat([shifts, shifts[:1]])
    else:
        shifts_of_parts = shifts
    dtype = _gradient_dtype(operands)
    factor = _factor(rows.bound + columns.bound, dtype)
    sides = (rows, columns)
    gaps = [shifts_of_parts[:, None] - side.log_sums * LOG2_E for side in sides]
    unsafe = torch.stack([(gap > HEAD_ROOM).any() for gap in gaps]).any().int()
    vectors = [_vectors(*both, unsafe, factor) for both in zip(sides, gaps, strict=True)]
    scratch = Scratch.of(operands, tiling, dtype)
    products = _Accumulator(operands, dtype)
    with on_device_of(factor):
        for window in tiling.windows(*operands.shape):
            both = (vectors[0], vectors[1])
            fill_gradient(operands, tiling, window, scratch, -shifts, both, unsafe)
            products.add(window, scratch)
    return products.divided_by(factor)


def sigmoid_pairs(
    operands: Operands,
    tiling: Tiling,
    weights: Float32[Tensor, " k"],
    shares: tuple[Float32[Tensor, " n"], Float32[Tensor, " m"]],
    upstream: Float32[Tensor, " 2"] | None = None,
    values: bool = True,
) -> Pairs:
    """The sigmoid losses' values, gradients, or both in one sweep.

    `weights`: of each matrix's probability in the target, the student's 0. `upstream`: gradients
    of both values; None: no gradient is wanted.
    """
    total = weights.new_zeros(3)
    factor, factors, dtype, products = weights.new_ones(()), None, None, None
    if upstream is None:
        tiling = tiling.without_scratch()
    else:
        dtype = _gradient_dtype(operands)
        largest = torch.stack([share.abs().amax() for share in shares]).mean()
        factor = _factor(largest * upstream.abs().sum(), dtype)
        factors = upstream * factor
        products = _Accumulator(operands, dtype)
    scratch = Scratch.of(operands, tiling, dtype)
    with on_device_of(weights):
        for window in tiling.windows(*operands.shape):
            sizes = (operands, tiling, window, scratch)
            total += sigmoid_window(*sizes, weights, shares, factors, values)
            if products is not None:
                products.add(window, scratch)
    made = None if products is None else products.divided_by(factor)
    return Pairs(total[:2], total[2] / factor, made)


class _Accumulator:
    """Sums up, over windows, dL/dlogit times rows."""

    def __init__(self, operands: Operands, dtype: torch.dtype):
        student = operands.lefts[0], operands.rights[0]
        self.rows = [part.to(dtype) for part in student]
        self.out = [torch.zeros_like(part, dtype=torch.float32) for part in student]

    def add(self, window: Window, scratch: Scratch) -> None:
        height, width = window.shape
        tile = scratch.gradient[:height, :width]
        multiply(tile, self.rows[1][window.columns], self.out[0][window.rows], add=True)
        multiply(tile.T, self.rows[0][window.rows], self.out[1][window.columns], add=True)

    def divided_by(self, factor: Tensor) -> Products:
        return Products(*(part.div_(factor) for part in self.out))


def _masses(operands: Operands, sums: Float32[Tensor, "q n"]) -> Float32[Tensor, "parts n"]:
    """Sums of exponentials: each matrix's, then the negatives', which come last."""
    masses = sums[: len(operands.lefts)]
    return torch.cat([masses, sums[-1:]]) if operands.negatives else masses


def _shifts(operands: Operands) -> Float32[Tensor, " k"]:
    """In base 2: the largest logit that the rows' norms allow, less the head room; at least 0.

    Small logits need no shift, and would lose digits to one.
    """

    def longest(rows: Tensor) -> Tensor:
        return torch.linalg.vector_norm(rows, dim=1, dtype=torch.float32).amax()

    norms = [longest(a) * longest(b) for a, b in zip(operands.lefts, operands.rights, strict=True)]
    # A little more than the bound: products are rounded.
    return (operands.scales.abs() * torch.stack(norms) * 1.001 - HEAD_ROOM).clamp(min=0)


def _gradient_dtype(operands: Operands) -> torch.dtype:
    """What dL/dlogit is rounded to between the kernel and cuBLAS."""
    return torch.float32 if operands.lefts[0].dtype == torch.float32 else torch.float16


def _factor(bound: Float32[Tensor, ""], dtype: torch.dtype) -> Float32[Tensor, ""]:
    """What dL/dlogit is multiplied by before it is rounded."""
    if dtype == torch.float32:
        return torch.ones_like(bound)
    return FLOAT16_TOP / bound.clamp(min=1e-30)


def _vectors(
    side: Vectors, gaps: Float32[Tensor, "parts n"], unsafe: Int32[Tensor, ""], factor: Tensor
) -> Float32[Tensor, "v n"]:
    """What `gradient_kernel` reads of one direction."""
    coefficients = side.coefficients * factor
    # Anchored: exp2(S - shift) * exp2(shift - log-sum); the latter once per row, here.
    coefficients = torch.where(unsafe > 0, coefficients, coefficients * gaps.exp2())
    return torch.cat([side.positive[None] * factor, coefficients, gaps])
