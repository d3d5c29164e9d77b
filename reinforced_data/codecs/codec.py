"""How embedding rows become bytes: a table of codecs. A column names the one it uses.

Rows are unit vectors, so a codec may lose their length: readers scale what they decode to norm 1.
That is why 8 and 4 bits store no row scale: it is one over the norm of the decoded integers.
Product quantisation, whose tables are fitted to a column, is `product_quantization`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float32

from reinforced_data.codecs import four_bits

# torch.nn.functional.normalize's.
_LEAST_NORM = 1e-12


@dataclass(frozen=True, kw_only=True)
class Codec:
    """A pair of functions between unit rows and what a column stores for them.

    Attributes:
        value_type: the Arrow type of one stored value.
        dtype: the same for numpy.
        width: how many values a row of `d` floats takes.
        encode: float32 rows `(n, d)` to `(n, width(d))`.
        decode_into: values to float32 rows of any length, written into an array `(n, d)`.
        exact: whether decoding gives the rows back bit for bit.
    """

    value_type: pa.DataType
    dtype: np.dtype
    width: Callable[[int], int]
    encode: Callable[[np.ndarray], np.ndarray]
    decode_into: Callable[[np.ndarray, np.ndarray], None]
    exact: bool = False

    def decode(self, values: np.ndarray, dim: int) -> Float32[np.ndarray, "n d"]:
        """Decode to float32 rows of any length."""
        rows = np.empty((len(values), dim), np.float32)
        self.decode_into(values, rows)
        return rows

    def unit_rows(
        self, values: np.ndarray, dim: int, into: np.ndarray | None = None
    ) -> Float32[np.ndarray, "n d"]:
        """Decode to rows of norm 1, in `into` where that is given.

        An exact codec's are what is stored, and where that is in memory nothing is copied.
        """
        if self.exact:
            return np.asarray(values, dtype=np.float32)
        rows = np.empty((len(values), dim), np.float32) if into is None else into
        self.decode_into(values, rows)
        # In place: to the bit what `normalize` gives in new memory.
        unit = torch.from_numpy(rows)
        unit /= torch.linalg.vector_norm(unit, dim=-1, keepdim=True).clamp_min(_LEAST_NORM)
        return rows


def _same(width: int) -> int:
    return width


def _as_float32(rows: np.ndarray) -> Float32[np.ndarray, "n d"]:
    return np.asarray(rows, dtype=np.float32)


def _from_float32(values: np.ndarray, rows: np.ndarray) -> None:
    rows[...] = values


def _as_float16(rows: np.ndarray) -> np.ndarray:
    return np.asarray(rows, dtype=np.float16)


def _from_float16(values: np.ndarray, rows: np.ndarray) -> None:
    # Twenty times faster than NumPy's. Mapped values cannot be written to, which torch minds.
    torch.from_numpy(rows).copy_(torch.from_numpy(np.require(values, requirements="W")))


def _as_bfloat16(rows: np.ndarray) -> np.ndarray:
    # NumPy has no bfloat16: its bits travel as integers.
    return torch.tensor(rows, dtype=torch.bfloat16).view(torch.uint16).numpy()


def _from_bfloat16(values: np.ndarray, rows: np.ndarray) -> None:
    np.left_shift(values, 16, out=rows.view(np.uint32), dtype=np.uint32)


def _as_int8(rows: np.ndarray) -> np.ndarray:
    largest = np.maximum(np.abs(rows).max(axis=1, keepdims=True, initial=0.0), 1e-30)
    return np.rint(rows * (127.0 / largest)).astype(np.int8)


def _from_int8(values: np.ndarray, rows: np.ndarray) -> None:
    np.multiply(values, np.float32(1 / 127), out=rows)


CODECS: dict[str, Codec] = {
    "float32": Codec(
        value_type=pa.float32(),
        dtype=np.dtype("<f4"),
        width=_same,
        encode=_as_float32,
        decode_into=_from_float32,
        exact=True,
    ),
    "float16": Codec(
        value_type=pa.float16(),
        dtype=np.dtype("<f2"),
        width=_same,
        encode=_as_float16,
        decode_into=_from_float16,
    ),
    "bfloat16": Codec(
        value_type=pa.uint16(),
        dtype=np.dtype("<u2"),
        width=_same,
        encode=_as_bfloat16,
        decode_into=_from_bfloat16,
    ),
    "int8": Codec(
        value_type=pa.int8(),
        dtype=np.dtype("i1"),
        width=_same,
        encode=_as_int8,
        decode_into=_from_int8,
    ),
    "int4": Codec(
        value_type=pa.uint8(),
        dtype=np.dtype("u1"),
        width=four_bits.width,
        encode=four_bits.encode,
        decode_into=four_bits.decode_into,
    ),
}
