"""From tensors to kernel launches: operands, one launch for each super-tile, products by cuBLAS."""

# A launch is no Python call: pyright would check it against the kernel's own signature.
# pyright: reportCallIssue=false, reportArgumentType=false
import contextlib
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float32, Int32
from torch import Tensor

from distill.ops.image_text.triton_kernels import gradient_kernel, online_kernel, sums_kernel
from distill.ops.image_text.triton_tiles import DIAGONAL, IDS
from distill.ops.image_text.triton_tiling import Tiling, Window

LOG2_E = 1.4426950408889634


@dataclass(frozen=True, kw_only=True)
class Matrices:
    """Left and right rows of every logit matrix; index 0 is the student.

    `scales` and `biases` have one entry a matrix. `mixed`: the targets are one, the sum of their
    scaled products (their weights are in `scales`). `ids`: equal ids are positives; None: row i
    and column i are.
    """

    lefts: tuple[Tensor, ...]
    rights: tuple[Tensor, ...]
    scales: Float32[Tensor, " k"]
    biases: Float32[Tensor, " k"]
    sigmoid: bool = False
    mixed: bool = False
    row_ids: Int32[Tensor, " m"] | None = None
    column_ids: Int32[Tensor, " n"] | None = None

    @property
    def slots(self) -> int:
        """The student and each target: how many probability matrices there are."""
        return min(2, len(self.lefts)) if self.mixed else len(self.lefts)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of every logit matrix."""
        return self.lefts[0].shape[0], self.rights[0].shape[0]

    @property
    def num_sums(self) -> int:
        """How many quantities `sums_kernel` adds up."""
        return (3 if self.sigmoid else 2) + 2 * (self.slots - 1) + (self.row_ids is not None)

    def per_slot(self, values: Float[Tensor, " k"]) -> Float[Tensor, " slots"]:
        """Values of matrices as values of slots: a mixed target has their sum."""
        if self.slots == len(values):
            return values
        return torch.stack([values[0], values[1:].sum()])

    @property
    def kernel_scales(self) -> Float32[Tensor, " k"]:
        """Softmax kernels work in base 2."""
        return self.scales if self.sigmoid else self.scales * LOG2_E


@dataclass(frozen=True)
class Scratch:
    """Memory that every super-tile of a sweep uses again: products (library), dL/dlogit."""

    products: tuple[Float32[Tensor, "h w"], ...]
    gradient: Float[Tensor, "h w"] | None

    @staticmethod
    def of(matrices: Matrices, tiling: Tiling, gradient: torch.dtype | None = None) -> "Scratch":
        """Allocate for one sweep; `gradient` is the dtype of dL/dlogit, if it is wanted."""
        shape, like = tiling.super_tile(*matrices.shape), matrices.lefts[0]
        count = len(matrices.lefts) if tiling.backend == "library" else 0
        return Scratch(
            tuple(like.new_empty(shape, dtype=torch.float32) for _ in range(count)),
            None if gradient is None else like.new_empty(shape, dtype=gradient),
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


def precision(matrices: Matrices) -> str:
    """How float32 rows are multiplied: as torch is told to; three tf32 products are float32's."""
    if matrices.lefts[0].is_cuda and torch.backends.cuda.matmul.fp32_precision == "tf32":
        return "tf32"
    return "tf32x3"


def _operands(matrices: Matrices, tiling: Tiling, window: Window, scratch: Scratch) -> tuple:
    """(lefts, rights, row ids, column ids) of a window; the library's products are made here."""
    lefts = tuple(left[window.rows] for left in matrices.lefts)
    rights = tuple(right[window.columns] for right in matrices.rights)
    if tiling.backend == "library":
        height, width = window.shape
        tiles = tuple(product[:height, :width] for product in scratch.products)
        for left, right, tile in zip(lefts, rights, tiles, strict=True):
            multiply(left, right.T, tile, add=False)
        lefts = rights = tiles
    if matrices.row_ids is None or matrices.column_ids is None:
        return lefts, rights, None, None
    return lefts, rights, matrices.row_ids[window.rows], matrices.column_ids[window.columns]


def _constants(matrices: Matrices, tiling: Tiling) -> dict:
    return {
        "MIXED": matrices.mixed,
        "WIDTHS": tuple(left.shape[1] for left in matrices.lefts),
        "PRECISION": precision(matrices),
        "BLOCK_M": tiling.block_m,
        "BLOCK_N": tiling.block_n,
        "BLOCK_K": tiling.block_bytes // max(left.itemsize for left in matrices.lefts),
        "num_warps": tiling.num_warps,
        "num_stages": tiling.num_stages,
    }


def add_sums(
    matrices: Matrices,
    tiling: Tiling,
    window: Window,
    scratch: Scratch,
    offsets: Float32[Tensor, " slots"],
    rows: Float32[Tensor, "q m"],
    columns: Float32[Tensor, "q n"],
) -> None:
    """Add a window's sums to the sums of all rows and columns."""
    down, across = tiling.tiles(window)
    partial_rows = rows.new_empty(rows.shape[0], across, window.shape[0])
    partial_columns = columns.new_empty(columns.shape[0], down, window.shape[1])
    sums_kernel[(down * across,)](
        *_operands(matrices, tiling, window, scratch),
        *(matrices.kernel_scales, offsets, partial_rows, partial_columns),
        *(*window.shape, tiling.super_tile(*matrices.shape)[1]),
        SIGMOID=matrices.sigmoid,
        POSITIVES=(DIAGONAL if matrices.row_ids is None else IDS).value,
        LIBRARY=tiling.backend == "library",
        GROUP=tiling.group,
        **_constants(matrices, tiling),
    )
    rows[:, window.rows] += partial_rows.sum(1)
    columns[:, window.columns] += partial_columns.sum(1)


def fill_gradient(
    matrices: Matrices,
    tiling: Tiling,
    window: Window,
    scratch: Scratch,
    offsets: Float32[Tensor, " slots"],
    vectors: tuple[Float32[Tensor, "v m"], Float32[Tensor, "v n"]],
    unsafe: Int32[Tensor, ""],
    sums: tuple[Float32[Tensor, "q m"], Float32[Tensor, "q n"]] | None,
) -> Float[Tensor, "h w"]:
    """Write a window's dL/dlogit into the scratch; return the part of it that is the window's."""
    assert scratch.gradient is not None
    tile = scratch.gradient[: window.shape[0], : window.shape[1]]
    down, across = tiling.tiles(window)
    rows, columns = sums or (vectors[0][:0], vectors[1][:0])
    partial_rows = rows.new_empty(rows.shape[0], across, window.shape[0])
    partial_columns = columns.new_empty(columns.shape[0], down, window.shape[1])
    gradient_kernel[(down * across,)](
        *_operands(matrices, tiling, window, scratch),
        *(matrices.kernel_scales, offsets),
        *(vectors[0][:, window.rows], vectors[1][:, window.columns], unsafe, tile),
        *(partial_rows, partial_columns, *window.shape, tile.stride(0)),
        *(vectors[0].shape[1], vectors[1].shape[1], window.rows.start - window.columns.start),
        SIGMOID=matrices.sigmoid,
        POSITIVES=(DIAGONAL if matrices.row_ids is None else IDS).value,
        SUMS=sums is not None,
        LIBRARY=tiling.backend == "library",
        GROUP=tiling.group,
        **_constants(matrices, tiling),
    )
    if sums is not None:
        rows[:, window.rows] += partial_rows.sum(1)
        columns[:, window.columns] += partial_columns.sum(1)
    return tile


def replace_where_unsafe(
    matrices: Matrices,
    flag: Int32[Tensor, ""],
    log_sums: tuple[Float32[Tensor, "slots m"], Float32[Tensor, "slots n"]],
    means: tuple[Float32[Tensor, "slots m"], Float32[Tensor, "slots n"]],
) -> None:
    """Overwrite log2-sums and means by the online kernel's, if `flag` is set on the device."""
    tiling = Tiling(block_m=64, block_n=64, block_bytes=64, num_warps=4, num_stages=2)
    sides = ((matrices.lefts, matrices.rights), (matrices.rights, matrices.lefts))
    for (lefts, rights), sums, mean in zip(sides, log_sums, means, strict=True):
        m, n = lefts[0].shape[0], rights[0].shape[0]
        for slot in range(matrices.slots):
            online_kernel[(-(-m // tiling.block_m),)](
                *(lefts, rights, matrices.kernel_scales, flag, sums[slot], mean[slot], m, n),
                SLOT=slot,
                **_constants(matrices, tiling),
            )
