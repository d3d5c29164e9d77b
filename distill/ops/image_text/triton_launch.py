"""From a problem to Triton launches: operands, scratch, products by cuBLAS, one launch a window."""

# A launch is no Python call: pyright would check it against the kernel's own signature.
# pyright: reportCallIssue=false, reportArgumentType=false
import contextlib
from dataclasses import dataclass

import torch
import triton
from jaxtyping import Float, Float32, Int32, Int64
from torch import Tensor

from distill.ops.image_text.problem import Problem
from distill.ops.image_text.triton_sigmoid import sigmoid_kernel
from distill.ops.image_text.triton_softmax import gradient_kernel, online_kernel, sums_kernel
from distill.ops.image_text.triton_tiling import ONLINE, Tiling, Window

LOG2_E = 1.4426950408889634


@dataclass(frozen=True, kw_only=True)
class Operands:
    """A problem as kernels see it: rows of every logit matrix, the student's first.

    `scales` and `biases` have one entry a matrix; softmax kernels work in base 2, so `scales` carry
    log2(e) there, and see no biases. `negatives`: the student's softmax over all but
    the positives is wanted too. Row i and column j are positives if their ids are equal, without
    ids if i == j + diagonal.
    """

    lefts: tuple[Float[Tensor, "n _"], ...]
    rights: tuple[Float[Tensor, "m _"], ...]
    scales: Float32[Tensor, " k"]
    biases: Float32[Tensor, " k"]
    sigmoid: bool
    negatives: bool = False
    diagonal: int = 0
    row_ids: Int64[Tensor, " n"] | None = None
    column_ids: Int64[Tensor, " m"] | None = None

    @staticmethod
    def of(problem: Problem) -> "Operands":
        """A problem's operands; rows are copied only if they are not contiguous."""
        assert problem.dtype == torch.float32, "float64 is for the tiled implementation"
        models, sigmoid = problem.sources, problem.kind == "sigmoid"
        scales = torch.stack([problem.logit_scale, *(m.scale for m in models)]).float()
        return Operands(
            lefts=tuple(_rows(x) for x in (problem.image, *(model.left for model in models))),
            rights=tuple(_rows(x) for x in (problem.text, *(model.right for model in models))),
            scales=scales if sigmoid else scales * LOG2_E,
            biases=torch.stack([problem.logit_bias, *(m.bias for m in models)]).float(),
            sigmoid=sigmoid,
            negatives=problem.row_divisor is not None,
            diagonal=problem.diagonal,
            row_ids=problem.row_ids,
            column_ids=problem.column_ids,
        )

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of every logit matrix."""
        return self.lefts[0].shape[0], self.rights[0].shape[0]

    @property
    def num_sums(self) -> int:
        """How many quantities `sums_kernel` adds up."""
        return 2 * len(self.lefts) - 1 + (self.row_ids is not None) + self.negatives

    def transposed(self) -> "Operands":
        """The same problem with rows for columns."""
        return Operands(
            **{
                **vars(self),
                **{"lefts": self.rights, "rights": self.lefts, "diagonal": -self.diagonal},
                **{"row_ids": self.column_ids, "column_ids": self.row_ids},
            }
        )


def _rows(rows: Tensor) -> Tensor:
    """Contiguous; not float64 beside a float32 student, nor bfloat16 in the interpreter."""
    interpreted = triton.knobs.runtime.interpret and rows.dtype == torch.bfloat16
    wrong = rows.dtype == torch.float64 or interpreted
    return (rows.float() if wrong else rows).contiguous()


@dataclass(frozen=True)
class Scratch:
    """Memory that every super-tile of a sweep uses again: products (library), dL/dlogit."""

    products: tuple[Float32[Tensor, "h w"], ...]
    gradient: Float[Tensor, "gh gw"]

    @staticmethod
    def of(operands: Operands, tiling: Tiling, gradient: torch.dtype | None = None) -> "Scratch":
        """Allocate for one sweep; `gradient` is the dtype of dL/dlogit, if it is wanted."""
        shape, like = tiling.super_tile(*operands.shape), operands.scales
        count = len(operands.lefts) if tiling.backend == "library" else 0
        return Scratch(
            tuple(like.new_empty(shape) for _ in range(count)),
            like.new_empty((0, 0) if gradient is None else shape, dtype=gradient),
        )


def multiply(
    a: Float[Tensor, "m k"], b: Float[Tensor, "k n"], out: Float32[Tensor, "m n"], *, add: bool
) -> None:
    """out (+)= a @ b, accumulated and written in float32 whatever the dtype of a and b."""
    if a.is_cuda and a.dtype != torch.float32:
        if add:
            torch.addmm(out, a, b, out_dtype=torch.float32, out=out)
        else:
            torch.mm(a, b, out_dtype=torch.float32, out=out)
    else:  # float32, and the interpreter's CPU, which has no mixed product
        torch.addmm(out, a.float(), b.float(), beta=int(add), out=out)


def on_device_of(tensor: Tensor) -> contextlib.AbstractContextManager[object]:
    """Triton launches on the current device: make it the tensor's."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else contextlib.nullcontext()


def _constants(operands: Operands, tiling: Tiling) -> dict:
    """What every kernel is compiled for. float32 is multiplied as torch is told to."""
    tf32 = operands.scales.is_cuda and torch.backends.cuda.matmul.fp32_precision == "tf32"
    return {
        "IDS": operands.row_ids is not None,
        "WIDTHS": tuple(left.shape[1] for left in operands.lefts),
        "PRECISION": "tf32" if tf32 else "tf32x3",  # three products of tf32 are as good as float32
        "BLOCK_M": tiling.block_m,
        "BLOCK_N": tiling.block_n,
        "BLOCK_K": tiling.block_bytes // max(left.itemsize for left in operands.lefts),
        "num_warps": tiling.num_warps,
        "num_stages": tiling.num_stages,
    }


def _of_window(operands: Operands, tiling: Tiling, window: Window, scratch: Scratch) -> tuple:
    """(lefts, rights, row ids, column ids) of a window; the library's products are made here."""
    lefts = tuple(left[window.rows] for left in operands.lefts)
    rights = tuple(right[window.columns] for right in operands.rights)
    if tiling.backend == "library":
        height, width = window.shape
        tiles = tuple(product[:height, :width] for product in scratch.products)
        for left, right, tile in zip(lefts, rights, tiles, strict=True):
            multiply(left, right.T, tile, add=False)
        lefts = rights = tiles
    if operands.row_ids is None or operands.column_ids is None:
        return lefts, rights, None, None
    return lefts, rights, operands.row_ids[window.rows], operands.column_ids[window.columns]


def _sizes(operands: Operands, tiling: Tiling, window: Window) -> tuple[int, int, int]:
    """(M, N, stride) of a window."""
    return *window.shape, tiling.super_tile(*operands.shape)[1]


def _flags(tiling: Tiling) -> dict:
    return {"LIBRARY": tiling.backend == "library", "GROUP": tiling.group}


def add_sums(
    operands: Operands,
    tiling: Tiling,
    window: Window,
    scratch: Scratch,
    offsets: Float32[Tensor, " k"],
    rows: Float32[Tensor, "q n"],
    columns: Float32[Tensor, "q m"],
) -> None:
    """Add a window's sums to the sums of all rows and columns."""
    down, across = tiling.tiles(window)
    partial_rows = rows.new_empty(rows.shape[0], across, window.shape[0])
    partial_columns = columns.new_empty(columns.shape[0], down, window.shape[1])
    sums_kernel[(down * across,)](
        *_of_window(operands, tiling, window, scratch),
        *(operands.scales, offsets, partial_rows, partial_columns),
        *(*_sizes(operands, tiling, window), operands.diagonal + window.diagonal),
        NEGATIVES=operands.negatives,
        **_flags(tiling),
        **_constants(operands, tiling),
    )
    rows[:, window.rows] += partial_rows.sum(1)
    columns[:, window.columns] += partial_columns.sum(1)


def fill_gradient(
    operands: Operands,
    tiling: Tiling,
    window: Window,
    scratch: Scratch,
    offsets: Float32[Tensor, " k"],
    vectors: tuple[Float32[Tensor, "v n"], Float32[Tensor, "v m"]],
    unsafe: Int32[Tensor, ""],
) -> None:
    """Write a window's softmax dL/dlogit into the scratch."""
    down, across = tiling.tiles(window)
    gradient_kernel[(down * across,)](
        *_of_window(operands, tiling, window, scratch),
        *(operands.scales, offsets),
        *(vectors[0][:, window.rows], vectors[1][:, window.columns], unsafe, scratch.gradient),
        *_sizes(operands, tiling, window),
        *(vectors[0].shape[1], vectors[1].shape[1], operands.diagonal + window.diagonal),
        NEGATIVES=operands.negatives,
        **_flags(tiling),
        **_constants(operands, tiling),
    )


def sigmoid_window(
    operands: Operands,
    tiling: Tiling,
    window: Window,
    scratch: Scratch,
    weights: Float32[Tensor, " k"],
    shares: tuple[Float32[Tensor, " n"], Float32[Tensor, " m"]],
    factors: Float32[Tensor, " 2"] | None,
    values: bool,
) -> Float32[Tensor, " 3"]:
    """Contrastive and affinity value of a window and the sum of its gradient; what is not asked
    for is 0. With `factors` the gradient is written into the scratch."""
    down, across = tiling.tiles(window)
    out = weights.new_zeros(3, down * across)
    sigmoid_kernel[(down * across,)](
        *_of_window(operands, tiling, window, scratch),
        *(operands.scales, operands.biases, weights),
        *(shares[0][window.rows], shares[1][window.columns]),
        *(weights if factors is None else factors, scratch.gradient, out),
        *(*_sizes(operands, tiling, window), operands.diagonal + window.diagonal),
        VALUES=values,
        GRADIENT=factors is not None,
        **_flags(tiling),
        **_constants(operands, tiling),
    )
    return out.sum(1)


def replace_if_unsafe(
    operands: Operands,
    unsafe: Int32[Tensor, ""],
    log_sums: Float32[Tensor, "parts n"],
    means: Float32[Tensor, "k n"],
) -> None:
    """Overwrite rows' log2-sums and means by the online kernel's, if the flag is set."""
    n, m = operands.shape
    for part, out in enumerate(log_sums):
        slot = part % len(operands.lefts)  # the negatives come last and are the student's
        online_kernel[(-(-n // ONLINE.block_m),)](
            *(operands.lefts, operands.rights, operands.row_ids, operands.column_ids),
            *(operands.scales, unsafe, out, means[slot - 1] if slot else out),
            *(n, m, operands.diagonal),
            SLOT=slot,
            NEGATIVES=part == len(operands.lefts),
            **_constants(operands, ONLINE),
        )
