"""How embedding rows become bytes: a table of codecs. A column names the one it uses."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float32

from teachers.suggestions import unknown_name


@dataclass(frozen=True, kw_only=True)
class Codec:
    """A pair of functions between unit rows and what a column stores for them.

    Attributes:
        value_type: the Arrow type of one stored value.
        dtype: the same for numpy.
        width: how many values a row of `d` floats takes.
        encode: float32 rows `(n, d)` to `(n, width(d))`.
        decode: back again, to float32.
        exact: whether decoding gives the rows back bit for bit.
    """

    value_type: pa.DataType
    dtype: np.dtype
    width: Callable[[int], int]
    encode: Callable[[np.ndarray], np.ndarray]
    decode: Callable[[np.ndarray], np.ndarray]
    exact: bool


def _as_float32(rows: np.ndarray) -> Float32[np.ndarray, "n d"]:
    return np.asarray(rows, dtype=np.float32)


def _from_float16(rows: np.ndarray) -> np.ndarray:
    # Twenty times faster than NumPy's astype. Mapped rows cannot be written to, which torch minds.
    return torch.from_numpy(np.require(rows, requirements="W")).float().numpy()


def _as_float16(rows: np.ndarray) -> np.ndarray:
    return np.asarray(rows, dtype=np.float16)


def _same(width: int) -> int:
    return width


CODECS: dict[str, Codec] = {
    "float32": Codec(
        value_type=pa.float32(),
        dtype=np.dtype("<f4"),
        width=_same,
        encode=_as_float32,
        decode=_as_float32,
        exact=True,
    ),
    "float16": Codec(
        value_type=pa.float16(),
        dtype=np.dtype("<f2"),
        width=_same,
        encode=_as_float16,
        decode=_from_float16,
        exact=False,
    ),
}


def get_codec(name: str) -> Codec:
    """Look a codec up.

    Raises:
        ValueError: no such codec; the message lists those there are.
    """
    if name not in CODECS:
        raise unknown_name("codec", name, CODECS)
    return CODECS[name]
