"""Four bits a number: a fixed rotation, then the nearest of 16 levels.

CLIP embeddings have a few large coordinates that would waste the levels of all others. After a
random rotation every coordinate is nearly normal with variance 1/d (QuIP#, Tseng et al. 2024,
section 3), for which Max (1960) and Lloyd (1982) give the best 16 levels. The rotation is two
rounds of signs, a permutation and Hadamard blocks, a function of d alone: nothing is fitted, and
nothing but the codes is stored.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

_SEED = 4
_ROUNDS = 2
_LARGEST_BLOCK = 256
# Lloyd-Max levels of a standard normal variable (Max 1960, table I, N = 16); symmetric.
_POSITIVE = (0.1284, 0.3881, 0.6568, 0.9424, 1.256, 1.618, 2.069, 2.733)
_LEVELS = np.array([-level for level in reversed(_POSITIVE)] + list(_POSITIVE), np.float32)
_EDGES = (_LEVELS[1:] + _LEVELS[:-1]) / 2


def width(dim: int) -> int:
    """Two numbers a byte."""
    return (dim + 1) // 2


def encode(rows: np.ndarray) -> np.ndarray:
    """Float32 unit rows `(n, d)` to bytes `(n, width(d))`, the even coordinate in the low bits."""
    dim = rows.shape[1]
    rotated = _rotation(dim).apply(np.asarray(rows, np.float32)) * np.float32(np.sqrt(dim))
    codes = np.searchsorted(_EDGES, rotated).astype(np.uint8)
    if dim % 2:
        codes = np.pad(codes, ((0, 0), (0, 1)))
    return codes[:, 0::2] | codes[:, 1::2] << 4


def decode_into(values: np.ndarray, rows: np.ndarray) -> None:
    """Write what bytes stand for into float32 rows `(n, d)`, near norm 1."""
    dim = rows.shape[1]
    pairs = np.stack([values & 15, values >> 4], axis=-1)
    codes = pairs.reshape(len(values), 2 * values.shape[1])[:, :dim]
    np.multiply(_rotation(dim).undo(_LEVELS[codes]), np.float32(1 / np.sqrt(dim)), out=rows)


@dataclass(frozen=True, kw_only=True)
class _Rotation:
    """Rounds of (signs, permutation, orthonormal Hadamard blocks)."""

    signs: np.ndarray
    orders: np.ndarray
    block: np.ndarray

    def apply(self, rows: np.ndarray) -> np.ndarray:
        for signs, order in zip(self.signs, self.orders, strict=True):
            rows = self._blocks((rows * signs)[:, order])
        return rows

    def undo(self, rows: np.ndarray) -> np.ndarray:
        for signs, order in zip(self.signs[::-1], self.orders[::-1], strict=True):
            # A Hadamard matrix of this kind is symmetric: it is its own inverse.
            back = np.empty_like(rows)
            back[:, order] = self._blocks(rows)
            rows = back * signs
        return rows

    def _blocks(self, rows: np.ndarray) -> np.ndarray:
        size = len(self.block)
        return (rows.reshape(-1, size) @ self.block).reshape(rows.shape)


@lru_cache(maxsize=16)
def _rotation(dim: int) -> _Rotation:
    # The largest power of two that divides d; 1 for odd widths, where only signs and order change.
    size = min(dim & -dim, _LARGEST_BLOCK)
    random = np.random.Generator(np.random.Philox(key=[_SEED, dim]))
    raw = random.bit_generator.random_raw(2 * _ROUNDS * dim).reshape(2, _ROUNDS, dim)
    return _Rotation(
        signs=np.where(raw[0] & 1, 1, -1).astype(np.float32),
        # A stable sort of raw numbers is the same in every NumPy.
        orders=np.argsort(raw[1], axis=1, kind="stable"),
        block=(_hadamard(size) / np.sqrt(size)).astype(np.float32),
    )


def _hadamard(size: int) -> np.ndarray:
    """Sylvester's matrix of ones and minus ones; `size` is a power of two."""
    matrix = np.ones((1, 1))
    while len(matrix) < size:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return matrix
