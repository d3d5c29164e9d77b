"""Which codec a column uses, its codebook included where it has one.

A codebook is `columns/NAME.codebook`: little-endian float32 of shape (bytes, 256, d / bytes). It is
written before the column's JSON file, whose identity holds its SHA-256.
"""

import numpy as np

from reinforced_data.codecs.codec import CODECS, Codec
from reinforced_data.codecs.names import CODEC_NAMES
from reinforced_data.codecs.product_quantization import (
    DTYPE,
    codebook_from_bytes,
    product_codec,
)
from reinforced_data.store.columns import Column
from reinforced_data.store.storage import Storage
from teachers.suggestions import unknown_name


def check_codec(name: str) -> None:
    """Raise ValueError for an unknown codec; the message lists those there are."""
    if name not in CODEC_NAMES:
        raise unknown_name("codec", name, CODEC_NAMES)


def stored_dtype(name: str) -> np.dtype:
    """The numpy type of one stored value.

    Raises:
        ValueError: no such codec.
    """
    check_codec(name)
    return CODECS[name].dtype if name in CODECS else DTYPE


def codebook_path(column: Column) -> str:
    """Where a column's codebook lies in its store."""
    return f"columns/{column.name}.codebook"


def codec_of(storage: Storage, column: Column) -> Codec:
    """The codec of an embeddings column.

    Raises:
        ValueError: an unknown codec, or a codebook that is missing or was changed.
    """
    name = column.identity["codec"]
    check_codec(name)
    if name in CODECS:
        return CODECS[name]
    path = codebook_path(column)
    where = f"{storage.name}/{path}"
    try:
        data = storage.read(path)
    except FileNotFoundError as error:
        raise ValueError(
            f"{where} is missing: without it the rows of {column.name} cannot be read"
        ) from error
    return product_codec(codebook_from_bytes(data, name, column.identity["codebook"], where))
