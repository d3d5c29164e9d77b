"""Triton kernels of the softmax losses: what one tile adds to the statistics, and its gradient.

One exponential serves the row and the column softmax: E = exp2(S - shift) with one shift for the
whole matrix, 100 below the largest logit that its rows' norms allow, so that E stays below 2^100
and sums of E are plain sums. Where a sum falls below 2^-100 a flag is raised on the device and
`online_kernel` takes over (fixed shift: b0nce/MemoryEfficientCLIP; head room and guard are ours).

Logits are in base 2 here and without bias: `scales` carry log2(e), `offsets` are -shift. Words and
names as in `triton_tiles.py`; what is computed, as in `problem.py`.
"""

# pyright: reportArgumentType=false, reportAssignmentType=false, reportGeneralTypeIssues=false
# pyright: reportPossiblyUnboundVariable=false, reportCallIssue=false
from typing import no_type_check

import triton
import triton.language as tl

from distill.ops.image_text.triton_tiles import product_tile, same_tile, store_sums, tile_of


@triton.jit
@no_type_check
def sums_kernel(
    lefts,
    rights,
    row_ids,
    column_ids,
    scales,
    offsets,
    rows_out,
    columns_out,
    M,
    N,
    stride,
    diagonal,
    IDS: tl.constexpr,
    NEGATIVES: tl.constexpr,
    WIDTHS: tl.constexpr,
    LIBRARY: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP: tl.constexpr,
):
    """Partial row and column sums of one super-tile.

    Quantities: E of every matrix; for each source, its E * the student's products; IDS: the
    student's products with positives; NEGATIVES: the student's E but for the positives.
    """
    pid_m, pid_n = tile_of(tl.program_id(0), M, N, BLOCK_M, BLOCK_N, GROUP)
    i = pid_m * BLOCK_M + tl.arange(0, BLOCK_M)
    j = pid_n * BLOCK_N + tl.arange(0, BLOCK_N)
    # Rows past the end wrap round: no NaN behind a buffer is ever read, no load needs a mask.
    rows = i % M
    columns = j % N
    valid = (i < M)[:, None] & (j < N)[None, :]
    COUNT: tl.constexpr = len(WIDTHS)
    where = (pid_m, pid_n, i, j, M, N)

    products = product_tile(
        *(lefts[0], rights[0], rows, columns, stride, WIDTHS[0]),
        *(LIBRARY, BLOCK_M, BLOCK_N, BLOCK_K, PRECISION),
    )
    mass = tl.where(valid, tl.exp2(products * tl.load(scales) + tl.load(offsets)), 0.0)
    store_sums(mass, rows_out, columns_out, 0, *where)
    if IDS or NEGATIVES:
        same = same_tile(row_ids, column_ids, i, j, M, N, diagonal, IDS) & valid
    if IDS:
        positives = tl.where(same, products, 0.0)
        store_sums(positives, rows_out, columns_out, 2 * COUNT - 1, *where)
    if NEGATIVES:
        mass = tl.where(same, 0.0, mass)
        last = 2 * COUNT if IDS else 2 * COUNT - 1
        store_sums(mass, rows_out, columns_out, last, *where)
    for k in tl.static_range(1, COUNT):
        scores = product_tile(
            *(lefts[k], rights[k], rows, columns, stride, WIDTHS[k]),
            *(LIBRARY, BLOCK_M, BLOCK_N, BLOCK_K, PRECISION),
        )
        mass = tl.exp2(scores * tl.load(scales + k) + tl.load(offsets + k))
        mass = tl.where(valid, mass, 0.0)
        store_sums(mass, rows_out, columns_out, k, *where)
        store_sums(mass * products, rows_out, columns_out, COUNT + k - 1, *where)


@triton.jit
@no_type_check
def gradient_kernel(
    lefts,
    rights,
    row_ids,
    column_ids,
    scales,
    offsets,
    row_vectors,
    column_vectors,
    unsafe,
    gradient,
    M,
    N,
    stride,
    row_stride,
    column_stride,
    diagonal,
    IDS: tl.constexpr,
    NEGATIVES: tl.constexpr,
    WIDTHS: tl.constexpr,
    LIBRARY: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP: tl.constexpr,
):
    """dL/dlogit of one super-tile, but for the smoothing, into `gradient` (rows `stride` apart).

    G = c_i e^(S - r_i) + c_j e^(S - c_j) - same (h_i + h_j) - the sources' [+ the negatives'].
    Vectors: h, then coefficients c of each matrix, then shift - log-sum-exp of each; NEGATIVES:
    one more of both. If safe, c comes times exp2(shift - log-sum-exp).
    """
    pid_m, pid_n = tile_of(tl.program_id(0), M, N, BLOCK_M, BLOCK_N, GROUP)
    i = pid_m * BLOCK_M + tl.arange(0, BLOCK_M)
    j = pid_n * BLOCK_N + tl.arange(0, BLOCK_N)
    rows = i % M
    columns = j % N
    COUNT: tl.constexpr = len(WIDTHS)
    # Coefficients are at 1 .. PARTS, gaps at 1 + PARTS .. 2 PARTS.
    PARTS: tl.constexpr = COUNT + 1 if NEGATIVES else COUNT
    row_vectors += rows
    column_vectors += columns
    anchored = tl.load(unsafe) == 0
    same = same_tile(row_ids, column_ids, i, j, M, N, diagonal, IDS)

    student = product_tile(
        *(lefts[0], rights[0], rows, columns, stride, WIDTHS[0]),
        *(LIBRARY, BLOCK_M, BLOCK_N, BLOCK_K, PRECISION),
    )
    student = student * tl.load(scales) + tl.load(offsets)
    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for part in tl.static_range(PARTS):
        if part == 0 or part == COUNT:
            scores = student
        else:
            scores = product_tile(
                *(lefts[part], rights[part], rows, columns, stride, WIDTHS[part]),
                *(LIBRARY, BLOCK_M, BLOCK_N, BLOCK_K, PRECISION),
            )
            scores = scores * tl.load(scales + part) + tl.load(offsets + part)
        c_row = tl.load(row_vectors + (1 + part) * row_stride)
        c_column = tl.load(column_vectors + (1 + part) * column_stride)
        if anchored:
            mass = tl.exp2(scores) * (c_row[:, None] + c_column[None, :])
        else:
            gap_row = tl.load(row_vectors + (1 + PARTS + part) * row_stride)
            gap_column = tl.load(column_vectors + (1 + PARTS + part) * column_stride)
            mass = tl.exp2(scores + gap_row[:, None]) * c_row[:, None]
            mass += tl.exp2(scores + gap_column[None, :]) * c_column[None, :]
        if part == 0:
            total = mass
        elif part == COUNT:
            total += tl.where(same, 0.0, mass)
        else:
            total -= mass
    h_row = tl.load(row_vectors)
    h_column = tl.load(column_vectors)
    total -= tl.where(same, h_row[:, None] + h_column[None, :], 0.0)
    at = gradient + i.to(tl.int64)[:, None] * stride + j[None, :]
    valid = (i < M)[:, None] & (j < N)[None, :]
    tl.store(at, total.to(gradient.dtype.element_ty), mask=valid)


@triton.jit
@no_type_check
def online_kernel(
    lefts,
    rights,
    row_ids,
    column_ids,
    scales,
    flag,
    log_sums,
    means,
    M,
    N,
    diagonal,
    SLOT: tl.constexpr,
    IDS: tl.constexpr,
    NEGATIVES: tl.constexpr,
    WIDTHS: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """The fallback, one direction: a row's log2-sum-exp2 and mean student product under a matrix.

    SLOT is the matrix; NEGATIVES leaves the positives out. Always launched, returns at once unless
    `flag` is set: the host never has to look.
    """
    if tl.load(flag) == 0:
        return
    i = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    rows = i % M
    top = tl.full((BLOCK_M,), -1e30, tl.float32)
    mass = tl.zeros((BLOCK_M,), tl.float32)
    mean = tl.zeros((BLOCK_M,), tl.float32)
    for start in range(0, N, BLOCK_N):
        j = start + tl.arange(0, BLOCK_N)
        columns = j % N
        products = product_tile(
            *(lefts[0], rights[0], rows, columns, 0, WIDTHS[0]),
            *(False, BLOCK_M, BLOCK_N, BLOCK_K, PRECISION),
        )
        if SLOT == 0:
            scores = products
        else:
            scores = product_tile(
                *(lefts[SLOT], rights[SLOT], rows, columns, 0, WIDTHS[SLOT]),
                *(False, BLOCK_M, BLOCK_N, BLOCK_K, PRECISION),
            )
        scores *= tl.load(scales + SLOT)
        known = (j < N)[None, :]
        if NEGATIVES:
            known = known & (same_tile(row_ids, column_ids, i, j, M, N, diagonal, IDS) == 0)
        scores = tl.where(known, scores, -1e30)
        higher = tl.maximum(top, tl.max(scores, 1))
        tile = tl.where(known, tl.exp2(scores - higher[:, None]), 0.0)
        shrink = tl.exp2(top - higher)
        mass = mass * shrink + tl.sum(tile, 1)
        mean = mean * shrink + tl.sum(tile * products, 1)
        top = higher
    tl.store(log_sums + i, top + tl.log2(mass), mask=i < M)
    if SLOT > 0:
        tl.store(means + i, mean / mass, mask=i < M)
