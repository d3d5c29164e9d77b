"""Tiles of logits in Triton: how they are computed, which pairs are positives, how sums are kept.

A super-tile has M rows of each left matrix and N rows of each right one; matrix 0 is the student's,
the rest are targets (teachers, or intra-modal similarities). A tile of products is either computed
here (fused) or read from what cuBLAS wrote (library); what follows is the same.

Names: left (M, D), right (N, D), products = left @ right.T, S = scale * products in units of
log 2 (softmax) or of 1 (sigmoid). Suffix _MN: a (BLOCK_M, BLOCK_N) tile. Partial sums go to
(quantity, tile, row) and are added in a fixed order: no atomics, equal bits in equal runs.
`no_type_check` keeps the tests' type checker from wrapping what Triton compiles from source.
"""

# pyright: reportArgumentType=false, reportAssignmentType=false, reportGeneralTypeIssues=false
# pyright: reportPossiblyUnboundVariable=false, reportCallIssue=false
from typing import no_type_check

import triton
import triton.language as tl

DIAGONAL: tl.constexpr = tl.constexpr(1)
IDS: tl.constexpr = tl.constexpr(2)


@triton.jit
@no_type_check
def tile_of(pid, M, N, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, GROUP: tl.constexpr):
    """Tile (m, n) of program pid; GROUP rows of tiles together, so that L2 serves them."""
    tiles_m = tl.cdiv(M, BLOCK_M)
    tiles_n = tl.cdiv(N, BLOCK_N)
    group = pid // (GROUP * tiles_n)
    height = min(tiles_m - group * GROUP, GROUP)
    inside = pid % (GROUP * tiles_n)
    return group * GROUP + inside % height, inside // height


@triton.jit
@no_type_check
def dot_tile(
    left,
    right,
    rows,
    columns,
    WIDTH: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Products of `rows` of left and `columns` of right (indices in range), float32."""
    inner = tl.arange(0, BLOCK_K)
    at_left = left + rows.to(tl.int64)[:, None] * WIDTH + inner[None, :]
    at_right = right + columns.to(tl.int64)[None, :] * WIDTH + inner[:, None]
    products = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for start in range(0, WIDTH, BLOCK_K):
        if WIDTH % BLOCK_K == 0:
            a = tl.load(at_left)
            b = tl.load(at_right)
        else:
            a = tl.load(at_left, mask=(inner < WIDTH - start)[None, :], other=0.0)
            b = tl.load(at_right, mask=(inner < WIDTH - start)[:, None], other=0.0)
        products = tl.dot(a, b, products, input_precision=PRECISION)
        at_left += BLOCK_K
        at_right += BLOCK_K
    return products


@triton.jit
@no_type_check
def product_tile(
    left,
    right,
    rows,
    columns,
    stride,
    WIDTH: tl.constexpr,
    LIBRARY: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """`dot_tile`, or the same tile of the products that cuBLAS left in `left`, `stride` apart."""
    if LIBRARY:
        tile = tl.load(left + rows.to(tl.int64)[:, None] * stride + columns[None, :])
    else:
        tile = dot_tile(left, right, rows, columns, WIDTH, BLOCK_M, BLOCK_N, BLOCK_K, PRECISION)
    return tile


@triton.jit
@no_type_check
def log_one_plus(u):
    """log(1 + u) for u in [0, 1]; the series where 1 + u would round u away."""
    series = u * (1.0 - u * (0.5 - u * (0.33333334 - u * 0.25)))
    return tl.where(u < 0.03, series, tl.log(1.0 + u))


@triton.jit
@no_type_check
def sigmoid_pair(z):
    """(softplus(z), sigmoid(z)), both without overflow."""
    u = tl.exp2(-tl.abs(z) * 1.4426950408889634)
    high = 1.0 / (1.0 + u)
    return tl.maximum(z, 0.0) + log_one_plus(u), tl.where(z >= 0, high, u * high)


@triton.jit
@no_type_check
def store_sums(values, rows_out, columns_out, quantity, pid_m, pid_n, i, j, M, N):
    """Sum a masked tile over columns and over rows, each into the tile's own place."""
    at_row = (quantity * tl.cdiv(N, values.shape[1]) + pid_n).to(tl.int64) * M + i
    at_column = (quantity * tl.cdiv(M, values.shape[0]) + pid_m).to(tl.int64) * N + j
    tl.store(rows_out + at_row, tl.sum(values, 1), mask=i < M)
    tl.store(columns_out + at_column, tl.sum(values, 0), mask=j < N)


@triton.jit
@no_type_check
def target_tile(
    lefts,
    rights,
    scales,
    rows,
    columns,
    stride,
    SLOT: tl.constexpr,
    MIXED: tl.constexpr,
    WIDTHS: tl.constexpr,
    LIBRARY: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Scaled logits of target SLOT; MIXED: the sum over all targets, which is slot 1."""
    FIRST: tl.constexpr = 1 if MIXED else SLOT
    LAST: tl.constexpr = len(WIDTHS) if MIXED else SLOT + 1
    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for k in tl.static_range(FIRST, LAST):
        products = product_tile(
            *(lefts[k], rights[k], rows, columns, stride, WIDTHS[k]),
            *(LIBRARY, BLOCK_M, BLOCK_N, BLOCK_K, PRECISION),
        )
        total += products * tl.load(scales + k)
    return total


@triton.jit
@no_type_check
def same_tile(row_ids, column_ids, i, j, M, N, diagonal, POSITIVES: tl.constexpr):
    """True where row i and column j are positives of each other."""
    if POSITIVES == DIAGONAL:
        same = (i + diagonal)[:, None] == j[None, :]
    else:
        left = tl.load(row_ids + i, mask=i < M, other=-1)
        right = tl.load(column_ids + j, mask=j < N, other=-2)
        same = left[:, None] == right[None, :]
    return same
