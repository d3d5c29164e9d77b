"""Triton kernel of the sigmoid losses: a tile's part of the two values, and its gradient.

No log-sum-exp is needed, so values and gradient can share one sweep. `scales` and `offsets` are the
matrices' own scales and biases. Words and names as in `triton_tiles.py`; what is computed, as in
`problem.py`.
"""

# pyright: reportArgumentType=false, reportAssignmentType=false, reportGeneralTypeIssues=false
# pyright: reportPossiblyUnboundVariable=false, reportCallIssue=false
from typing import no_type_check

import triton
import triton.language as tl

from distill.ops.image_text.triton_tiles import product_tile, same_tile, tile_of


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
def sigmoid_kernel(
    lefts,
    rights,
    row_ids,
    column_ids,
    scales,
    offsets,
    weights,
    row_share,
    column_share,
    factors,
    gradient,
    out,
    M,
    N,
    stride,
    diagonal,
    IDS: tl.constexpr,
    VALUES: tl.constexpr,
    GRADIENT: tl.constexpr,
    WIDTHS: tl.constexpr,
    LIBRARY: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP: tl.constexpr,
):
    """Values of one super-tile's pairs, their gradient, or both.

    `out` is (3, tile): contrastive and affinity value (VALUES), sum of the gradient (GRADIENT).
    `weights` are the sources'; `factors` the gradients of both values, scaled to suit `gradient`.
    """
    pid = tl.program_id(0)
    pid_m, pid_n = tile_of(pid, M, N, BLOCK_M, BLOCK_N, GROUP)
    i = pid_m * BLOCK_M + tl.arange(0, BLOCK_M)
    j = pid_n * BLOCK_N + tl.arange(0, BLOCK_N)
    rows = i % M
    columns = j % N
    # Pairs past the end have share 0; a sum over them is none of them.
    row_half = tl.load(row_share + rows) * 0.5
    column_half = tl.load(column_share + columns) * 0.5
    valid = (i < M)[:, None] & (j < N)[None, :]
    share = tl.where(valid, row_half[:, None] + column_half[None, :], 0.0)
    COUNT: tl.constexpr = len(WIDTHS)

    products = product_tile(
        *(lefts[0], rights[0], rows, columns, stride, WIDTHS[0]),
        *(LIBRARY, BLOCK_M, BLOCK_N, BLOCK_K, PRECISION),
    )
    scores = products * tl.load(scales) + tl.load(offsets)
    softplus, chance = sigmoid_pair(scores)
    same = same_tile(row_ids, column_ids, i, j, M, N, diagonal, IDS)
    target = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for k in tl.static_range(1, COUNT):
        taught = product_tile(
            *(lefts[k], rights[k], rows, columns, stride, WIDTHS[k]),
            *(LIBRARY, BLOCK_M, BLOCK_N, BLOCK_K, PRECISION),
        )
        taught = taught * tl.load(scales + k) + tl.load(offsets + k)
        target += sigmoid_pair(taught)[1] * tl.load(weights + k)

    tiles = tl.num_programs(0)
    if VALUES:
        hard = softplus - tl.where(same, scores, 0.0)
        tl.store(out + pid, tl.sum(hard * share))
        if COUNT > 1:
            tl.store(out + tiles + pid, tl.sum((softplus - target * scores) * share))
    if GRADIENT:
        total = (chance - tl.where(same, 1.0, 0.0)) * tl.load(factors)
        if COUNT > 1:
            total += (chance - target) * tl.load(factors + 1)
        total *= share
        tl.store(out + 2 * tiles + pid, tl.sum(total))
        at = gradient + i.to(tl.int64)[:, None] * stride + j[None, :]
        tl.store(at, total.to(gradient.dtype.element_ty), mask=valid)
