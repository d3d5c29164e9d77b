"""Triton kernels of the image-text loss: what one tile of logits adds to sums and to gradients.

One exponential serves the row and the column softmax: E = exp2(S - shift) with one shift for the
whole matrix, 100 below the largest logit that its rows' norms allow, so that E stays below 2^100
and sums of E are plain sums. Where a sum falls below 2^-100 a flag is raised on the device and
`online_kernel` takes over (fixed shift: b0nce/MemoryEfficientCLIP; head room and guard are ours).
Words and names as in `triton_tiles.py`.
"""

# pyright: reportArgumentType=false, reportAssignmentType=false, reportGeneralTypeIssues=false
# pyright: reportPossiblyUnboundVariable=false, reportCallIssue=false
from typing import no_type_check

import triton
import triton.language as tl

from distill.ops.image_text.triton_tiles import (
    IDS,
    product_tile,
    same_tile,
    sigmoid_pair,
    store_sums,
    target_tile,
    tile_of,
)


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
    SIGMOID: tl.constexpr,
    MIXED: tl.constexpr,
    POSITIVES: tl.constexpr,
    WIDTHS: tl.constexpr,
    LIBRARY: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP: tl.constexpr,
):
    """Partial row and column sums of one super-tile.

    Quantities, softmax: E, E * products; then for each target its E, its E * student products.
    Sigmoid: softplus, sigmoid, sigmoid * products; each target's q, q * student products.
    Last, with ids: the products of positives.
    """
    pid_m, pid_n = tile_of(tl.program_id(0), M, N, BLOCK_M, BLOCK_N, GROUP)
    i = pid_m * BLOCK_M + tl.arange(0, BLOCK_M)
    j = pid_n * BLOCK_N + tl.arange(0, BLOCK_N)
    # Rows past the end wrap round: no NaN behind a buffer is ever read, no load needs a mask.
    rows = i % M
    columns = j % N
    valid = (i < M)[:, None] & (j < N)[None, :]
    BASE: tl.constexpr = 3 if SIGMOID else 2
    SLOTS: tl.constexpr = 2 if MIXED else len(WIDTHS)
    place = (rows_out, columns_out)
    where = (pid_m, pid_n, i, j, M, N)

    products = product_tile(
        *(lefts[0], rights[0], rows, columns, stride, WIDTHS[0]),
        *(LIBRARY, BLOCK_M, BLOCK_N, BLOCK_K, PRECISION),
    )
    products = tl.where(valid, products, 0.0)
    scores = products * tl.load(scales) + tl.load(offsets)
    if SIGMOID:
        softplus, probability = sigmoid_pair(scores)
        probability = tl.where(valid, probability, 0.0)
        store_sums(tl.where(valid, softplus, 0.0), *place, 0, *where)
        store_sums(probability, *place, 1, *where)
        store_sums(probability * products, *place, 2, *where)
    else:
        mass = tl.where(valid, tl.exp2(scores), 0.0)
        store_sums(mass, *place, 0, *where)
        store_sums(mass * products, *place, 1, *where)
    if POSITIVES == IDS:
        same = same_tile(row_ids, column_ids, i, j, M, N, 0, POSITIVES)
        store_sums(tl.where(same, products, 0.0), *place, BASE + 2 * (SLOTS - 1), *where)
    for slot in tl.static_range(1, SLOTS):
        scores = target_tile(
            *(lefts, rights, scales, rows, columns, stride, slot, MIXED, WIDTHS),
            *(LIBRARY, BLOCK_M, BLOCK_N, BLOCK_K, PRECISION),
        )
        scores += tl.load(offsets + slot)
        if SIGMOID:
            mass = sigmoid_pair(scores)[1]
        else:
            mass = tl.exp2(scores)
        mass = tl.where(valid, mass, 0.0)
        store_sums(mass, *place, BASE + 2 * slot - 2, *where)
        store_sums(mass * products, *place, BASE + 2 * slot - 1, *where)


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
    rows_out,
    columns_out,
    M,
    N,
    stride,
    row_stride,
    column_stride,
    diagonal,
    SIGMOID: tl.constexpr,
    MIXED: tl.constexpr,
    POSITIVES: tl.constexpr,
    SUMS: tl.constexpr,
    WIDTHS: tl.constexpr,
    LIBRARY: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP: tl.constexpr,
):
    """dL/dlogit of one super-tile into `gradient` (rows `stride` apart), scaled to suit it.

    G = p_S - same * (h_i + h_j) - sum_k p_k, where p = c_i softmax row + c_j softmax column, or
    (c_i + c_j) sigmoid. Vectors: c of each slot, then h, then (softmax) shift - log-sum-exp of
    each slot. SUMS: the student's sigmoid sums too, so that one sweep is all.
    """
    pid_m, pid_n = tile_of(tl.program_id(0), M, N, BLOCK_M, BLOCK_N, GROUP)
    i = pid_m * BLOCK_M + tl.arange(0, BLOCK_M)
    j = pid_n * BLOCK_N + tl.arange(0, BLOCK_N)
    rows = i % M
    columns = j % N
    valid = (i < M)[:, None] & (j < N)[None, :]
    SLOTS: tl.constexpr = 2 if MIXED else len(WIDTHS)
    row_vectors += rows
    column_vectors += columns
    if not SIGMOID:
        anchored = tl.load(unsafe) == 0

    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for slot in tl.static_range(SLOTS):
        if slot == 0:
            products = product_tile(
                *(lefts[0], rights[0], rows, columns, stride, WIDTHS[0]),
                *(LIBRARY, BLOCK_M, BLOCK_N, BLOCK_K, PRECISION),
            )
            scores = products * tl.load(scales) + tl.load(offsets)
        else:
            scores = target_tile(
                *(lefts, rights, scales, rows, columns, stride, slot, MIXED, WIDTHS),
                *(LIBRARY, BLOCK_M, BLOCK_N, BLOCK_K, PRECISION),
            )
            scores += tl.load(offsets + slot)
        c_row = tl.load(row_vectors + slot * row_stride)
        c_column = tl.load(column_vectors + slot * column_stride)
        if SIGMOID:
            softplus, mass = sigmoid_pair(scores)
            if SUMS and slot == 0:
                place = (rows_out, columns_out)
                where = (pid_m, pid_n, i, j, M, N)
                known = tl.where(valid, mass, 0.0)
                store_sums(tl.where(valid, softplus, 0.0), *place, 0, *where)
                store_sums(known, *place, 1, *where)
                store_sums(known * products, *place, 2, *where)
            mass = mass * (c_row[:, None] + c_column[None, :])
        else:
            if anchored:
                mass = tl.exp2(scores) * (c_row[:, None] + c_column[None, :])
            else:
                gap_row = tl.load(row_vectors + (SLOTS + 1 + slot) * row_stride)
                gap_column = tl.load(column_vectors + (SLOTS + 1 + slot) * column_stride)
                mass = tl.exp2(scores + gap_row[:, None]) * c_row[:, None]
                mass += tl.exp2(scores + gap_column[None, :]) * c_column[None, :]
        if slot == 0:
            total = mass
        else:
            total -= mass
    if POSITIVES != 0:
        same = same_tile(row_ids, column_ids, i, j, M, N, diagonal, POSITIVES)
        if SUMS and POSITIVES == IDS:
            store_sums(tl.where(same, products, 0.0), *place, 3, *where)
        h_row = tl.load(row_vectors + SLOTS * row_stride)
        h_column = tl.load(column_vectors + SLOTS * column_stride)
        total -= tl.where(same, h_row[:, None] + h_column[None, :], 0.0)
    at = gradient + i.to(tl.int64)[:, None] * stride + j[None, :]
    tl.store(at, total.to(gradient.dtype.element_ty), mask=valid)


@triton.jit
@no_type_check
def online_kernel(
    lefts,
    rights,
    scales,
    flag,
    log_sums,
    means,
    M,
    N,
    SLOT: tl.constexpr,
    MIXED: tl.constexpr,
    WIDTHS: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """The fallback, one direction: a row's log2-sum-exp2 and mean student product under slot SLOT.

    Always launched, returns at once unless `flag` is set: the host never has to look.
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
            scores = products * tl.load(scales)
        else:
            scores = target_tile(
                *(lefts, rights, scales, rows, columns, 0, SLOT, MIXED, WIDTHS),
                *(False, BLOCK_M, BLOCK_N, BLOCK_K, PRECISION),
            )
        scores = tl.where((j < N)[None, :], scores, -1e30)
        higher = tl.maximum(top, tl.max(scores, 1))
        tile = tl.exp2(scores - higher[:, None])
        shrink = tl.exp2(top - higher)
        mass = mass * shrink + tl.sum(tile, 1)
        mean = mean * shrink + tl.sum(tile * products, 1)
        top = higher
    tl.store(log_sums + i, top + tl.log2(mass), mask=i < M)
    tl.store(means + i, mean / mass, mask=i < M)
