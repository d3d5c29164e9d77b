"""Tiles of logits in Triton: how they are computed, which pairs are positives, how sums are kept.

A super-tile has M rows of each left matrix and N rows of each right one; matrix 0 is the student's,
the rest are sources of targets (`problem.py`). products = left @ right.T, scores = what a softmax
or sigmoid sees. A tile of products is either computed here (fused) or read from what cuBLAS wrote
(library); what follows is the same. Partial sums have a place of their own for each tile and are
added in a fixed order later: no atomics, so that equal runs have equal bits.
`no_type_check` keeps the tests' type checker from wrapping what Triton compiles from source.
"""

# pyright: reportArgumentType=false, reportAssignmentType=false, reportGeneralTypeIssues=false
# pyright: reportPossiblyUnboundVariable=false, reportCallIssue=false
from typing import no_type_check

import triton
import triton.language as tl


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
def store_sums(values, rows_out, columns_out, quantity, pid_m, pid_n, i, j, M, N):
    """Sum a masked tile over columns and over rows, each into the tile's own place."""
    at_row = (quantity * tl.cdiv(N, values.shape[1]) + pid_n).to(tl.int64) * M + i
    at_column = (quantity * tl.cdiv(M, values.shape[0]) + pid_m).to(tl.int64) * N + j
    tl.store(rows_out + at_row, tl.sum(values, 1), mask=i < M)
    tl.store(columns_out + at_column, tl.sum(values, 0), mask=j < N)


@triton.jit
@no_type_check
def same_tile(row_ids, column_ids, i, j, M, N, diagonal, IDS: tl.constexpr):
    """True where row i and column j are positives: equal ids, or i == j + diagonal."""
    if IDS:
        left = tl.load(row_ids + tl.minimum(i, M - 1))
        right = tl.load(column_ids + tl.minimum(j, N - 1))
    else:
        left = i
        right = j + diagonal
    return left[:, None] == right[None, :]
