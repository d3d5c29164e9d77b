"""The two sweeps over super-tiles of logits: statistics, then gradients. Plain tensors in and out.

Scratch is a constant number of pairs, so extra memory is O(N d). What a loss is made of is not
known here: gradients are linear in the probabilities, with coefficients by row and by column.

Back ends differ in who multiplies: "fused" computes a tile of products where it is used, "library"
lets cuBLAS write float32 products of a super-tile first (siglip-kernel found the latter faster on
Hopper). The gradient of the rows is cuBLAS's in both: dL/dlogit of a super-tile is kept in float16
(three more bits than bfloat16; scaled, so that 1/N does not underflow) and multiplied into float32.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float32, Int32
from torch import Tensor

from distill.ops.image_text.triton_launch import (
    LOG2_E,
    Matrices,
    Scratch,
    add_sums,
    fill_gradient,
    multiply,
    on_device_of,
    replace_where_unsafe,
)
from distill.ops.image_text.triton_tiling import Tiling

# Exponentials go up to 2^100: sums over 2^27 columns stay finite. Sums below 2^-100 are not
# trusted: what fell below 2^-126 was lost to them.
HEAD_ROOM = 100.0
SMALLEST_SUM = 2.0**-100
# Largest |dL/dlogit| in float16's range, times 4.
FLOAT16_TOP = 2.0**14


class Sums(NamedTuple):
    """Sums by row and by column; the quantities are `sums_kernel`'s."""

    rows: Float32[Tensor, "q m"]
    columns: Float32[Tensor, "q n"]


class Softmaxes(NamedTuple):
    """Of every slot's softmax: log of the sum and mean student product, by row and by column.

    `row_positives` and `column_positives`, with ids: the sum of products with the positives.
    `unsafe` is 1 where a sum underflowed and the online kernel ran.
    """

    row_log_sums: Float32[Tensor, "slots m"]
    row_means: Float32[Tensor, "slots m"]
    column_log_sums: Float32[Tensor, "slots n"]
    column_means: Float32[Tensor, "slots n"]
    row_positives: Float32[Tensor, " m"] | None
    column_positives: Float32[Tensor, " n"] | None
    shifts: Float32[Tensor, " slots"]
    unsafe: Int32[Tensor, ""]


class Coefficients(NamedTuple):
    """dL/dlogit by row or by column: of each slot's probability, of a positive pair."""

    slots: Float32[Tensor, "slots n"]
    positives: Float32[Tensor, " n"]


class Gradients(NamedTuple):
    """dL/dlogit times the student's rows; not yet times its scale. `sums` if asked for."""

    left: Float32[Tensor, "m d"]
    right: Float32[Tensor, "n d"]
    sums: Sums | None


def softmax_sums(matrices: Matrices, tiling: Tiling) -> Softmaxes:
    """Sweep one of the softmax losses."""
    shifts = _shifts(matrices)
    rows, columns = _sums(matrices, tiling, -shifts)
    slots = matrices.slots
    pairs = [part[: 2 * slots].unflatten(0, (slots, 2)) for part in (rows, columns)]
    unsafe = torch.stack([(part[:, 0] < SMALLEST_SUM).any() for part in pairs]).any().int()
    log_sums = [part[:, 0].log2() + shifts[:, None] for part in pairs]
    means = [part[:, 1] / part[:, 0] for part in pairs]
    with on_device_of(rows):
        replace_where_unsafe(matrices, unsafe, (log_sums[0], log_sums[1]), (means[0], means[1]))
    has_ids = matrices.row_ids is not None
    return Softmaxes(
        *(log_sums[0] / LOG2_E, means[0], log_sums[1] / LOG2_E, means[1]),
        *((rows[-1], columns[-1]) if has_ids else (None, None)),
        *(shifts / LOG2_E, unsafe),
    )


def sigmoid_sums(matrices: Matrices, tiling: Tiling) -> Sums:
    """Sweep one of the sigmoid losses."""
    return _sums(matrices, tiling, matrices.per_slot(matrices.biases))


def gradients(
    matrices: Matrices,
    tiling: Tiling,
    rows: Coefficients,
    columns: Coefficients,
    softmaxes: Softmaxes | None = None,
    with_sums: bool = False,
) -> Gradients:
    """Sweep two: dL/dlogit of every super-tile, times the rows on its other side.

    `softmaxes` are sweep one's; None for the sigmoid losses. `with_sums` (sigmoid without targets)
    makes the sums of sweep one on the way, so that one sweep is all.
    """
    assert not with_sums or (matrices.sigmoid and matrices.slots == 1)
    left, right = matrices.lefts[0], matrices.rights[0]
    dtype = torch.float32 if left.dtype == torch.float32 else torch.float16
    factor = _factor(rows, columns, dtype)
    if softmaxes is None:
        offsets, unsafe = (
            matrices.per_slot(matrices.biases),
            factor.new_zeros((), dtype=torch.int32),
        )
    else:
        offsets, unsafe = -softmaxes.shifts * LOG2_E, softmaxes.unsafe
    vectors = _vectors(rows, columns, softmaxes, factor)
    scratch = Scratch.of(matrices, tiling, dtype)
    sums = _empty_sums(matrices) if with_sums else None
    out = [torch.zeros_like(part, dtype=torch.float32) for part in (left, right)]
    left, right = left.to(dtype), right.to(dtype)
    with on_device_of(left):
        for window in tiling.windows(*matrices.shape):
            tile = fill_gradient(matrices, tiling, window, scratch, offsets, vectors, unsafe, sums)
            multiply(tile, right[window.columns], out[0][window.rows], add=True)
            multiply(tile.T, left[window.rows], out[1][window.columns], add=True)
    return Gradients(out[0].div_(factor), out[1].div_(factor), sums)


def _empty_sums(matrices: Matrices) -> Sums:
    like, count = matrices.scales, matrices.num_sums
    m, n = matrices.shape
    return Sums(like.new_zeros(count, m), like.new_zeros(count, n))


def _sums(matrices: Matrices, tiling: Tiling, offsets: Float32[Tensor, " slots"]) -> Sums:
    sums, scratch = _empty_sums(matrices), Scratch.of(matrices, tiling)
    with on_device_of(offsets):
        for window in tiling.windows(*matrices.shape):
            add_sums(matrices, tiling, window, scratch, offsets, *sums)
    return sums


def _shifts(matrices: Matrices) -> Float32[Tensor, " slots"]:
    """By slot, in base 2: the largest logit that the norms allow, less the head room."""

    def longest(rows: Tensor) -> Tensor:
        return torch.linalg.vector_norm(rows, dim=1, dtype=torch.float32).amax()

    norms = [longest(a) * longest(b) for a, b in zip(matrices.lefts, matrices.rights, strict=True)]
    largest = matrices.per_slot(matrices.scales.abs() * torch.stack(norms)) * (LOG2_E * 1.001)
    return largest - HEAD_ROOM


def _factor(rows: Coefficients, columns: Coefficients, dtype: torch.dtype) -> Float32[Tensor, ""]:
    """What dL/dlogit is multiplied by before it is rounded to `dtype`."""
    if dtype == torch.float32:
        return rows.slots.new_ones(())
    bounds = [part.abs().amax(dim=-1).sum() for side in (rows, columns) for part in side]
    return FLOAT16_TOP / torch.stack(bounds).sum().clamp(min=1e-30)


def _vectors(
    rows: Coefficients,
    columns: Coefficients,
    softmaxes: Softmaxes | None,
    factor: Float32[Tensor, ""],
) -> tuple[Float32[Tensor, "v m"], Float32[Tensor, "v n"]]:
    """What `gradient_kernel` reads by row and by column."""
    if softmaxes is None:
        made = [torch.cat([side.slots, side.positives[None]]) * factor for side in (rows, columns)]
        return made[0], made[1]
    made = []
    sums = (softmaxes.row_log_sums, softmaxes.column_log_sums)
    for side, log_sums in zip((rows, columns), sums, strict=True):
        gaps = (softmaxes.shifts[:, None] - log_sums) * LOG2_E
        slots = side.slots * factor
        # Anchored: exp2(S - shift) * exp2(shift - log-sum); folded here, once per row.
        slots = torch.where(softmaxes.unsafe > 0, slots, slots * gaps.exp2())
        made.append(torch.cat([slots, side.positives[None] * factor, gaps]))
    return made[0], made[1]
