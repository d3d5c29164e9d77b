"""How the logit matrix is cut: tiles of a kernel, super-tiles of a sweep. Numbers only.

`CANDIDATES` is what `triton_tuning.py` times; the first is the guess without timing. Each fits the
227 KiB of shared memory of a Hopper multiprocessor, the first three those 99 KiB of an Ada one.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

Backend = Literal["fused", "library"]


class Window(NamedTuple):
    """One super-tile: which rows and columns of the logit matrix."""

    rows: slice
    columns: slice

    @property
    def shape(self) -> tuple[int, int]:
        """Its rows and columns, counted."""
        return self.rows.stop - self.rows.start, self.columns.stop - self.columns.start

    @property
    def diagonal(self) -> int:
        """How far column 0 is right of row 0: i == j + diagonal on the matrix's own diagonal."""
        return self.columns.start - self.rows.start


@dataclass(frozen=True, kw_only=True)
class Tiling:
    """One way to cut: which back end, the kernel's tile, the launch, the super-tile's side.

    `num_stages` is the depth of the pipeline that loads; `group` rows of tiles run together so
    that the L2 cache serves them. `block_bytes` of every row are loaded at once. "library" has no
    inner loop: bytes and stages do not matter.
    """

    backend: Backend = "fused"
    block_m: int = 128
    block_n: int = 128
    block_bytes: int = 128
    num_warps: int = 8
    num_stages: int = 3
    group: int = 8
    side: int = 8192

    def without_scratch(self) -> "Tiling":
        """The same for a sweep that keeps no number per pair: larger, so fewer launches."""
        return replace(self, side=2 * self.side) if self.backend == "fused" else self

    def super_tile(self, rows: int, columns: int) -> tuple[int, int]:
        """Rows and columns of a super-tile of a (rows, columns) matrix."""
        return min(rows, self.side), min(columns, self.side)

    def tiles(self, window: Window) -> tuple[int, int]:
        """How many tiles cover a window, down and across."""
        rows, columns = window.shape
        return -(-rows // self.block_m), -(-columns // self.block_n)

    def windows(self, rows: int, columns: int) -> Iterator[Window]:
        """Super-tiles of the whole matrix, row by row."""
        for top in range(0, rows, self.side):
            for start in range(0, columns, self.side):
                yield Window(
                    slice(top, min(top + self.side, rows)),
                    slice(start, min(start + self.side, columns)),
                )


# The online kernel's: it rarely runs, and holds the state of its rows besides.
ONLINE = Tiling(block_m=64, block_n=64, block_bytes=64, num_warps=4, num_stages=2)

CANDIDATES = (
    Tiling(),
    Tiling(block_m=128, block_n=64, num_warps=4),
    Tiling(block_m=64, block_n=128, num_warps=4, num_stages=4),
    Tiling(block_m=128, block_n=128, num_stages=4),
    Tiling(block_m=128, block_n=128, block_bytes=256, num_stages=3),
    Tiling(block_m=128, block_n=256, num_stages=3),
    Tiling(backend="library", block_m=64, block_n=128, num_warps=4),
    Tiling(backend="library", block_m=64, block_n=128, num_warps=4, side=4096),
    Tiling(backend="library", block_m=32, block_n=256, num_warps=4, side=4096),
)


def candidates(matrices: int) -> tuple[Tiling, ...]:
    """What is worth timing: beside a second matrix the widest tile has too few registers."""
    largest = 128 * 256 if matrices == 1 else 128 * 128
    return tuple(tiling for tiling in CANDIDATES if tiling.block_m * tiling.block_n <= largest)
