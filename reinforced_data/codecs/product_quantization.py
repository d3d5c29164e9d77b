"""Product quantisation: 64 to 192 bytes a row, with tables fitted to a teacher's own rows.

Jegou, Douze, Schmid, "Product Quantization for Nearest Neighbor Search" (2011): a row is cut into
as many pieces as it gets bytes, and each byte names the nearest of 256 centroids. The tables (the
codebook) belong to a column: its identity holds their SHA-256, so that another codebook is another
column. Fitting and encoding are faiss's.
"""

import hashlib
from functools import partial

import faiss
import numpy as np
import pyarrow as pa

from reinforced_data.codecs.codec import Codec

CENTROIDS = 256
DTYPE = np.dtype("u1")
NUM_BYTES = {"pq64": 64, "pq96": 96, "pq128": 128, "pq192": 192}
_ITERATIONS = 25


def check_width(name: str, dim: int, teacher: str) -> None:
    """Raise ValueError unless rows of `dim` numbers can be cut into this codec's pieces."""
    if dim % NUM_BYTES[name]:
        fitting = [other for other, size in NUM_BYTES.items() if dim % size == 0]
        raise ValueError(
            f"codec {name} cuts rows into {NUM_BYTES[name]} pieces, and {teacher}'s have {dim} "
            f"numbers: take {', '.join(fitting) or 'none of the pq codecs'} or int4"
        )


def fit_codebook(rows: np.ndarray, num_bytes: int) -> np.ndarray:
    """Fit centroids to float32 rows `(n, d)`; return `(num_bytes, 256, d / num_bytes)`.

    The same rows give the same codebook on the same machine and faiss.

    Raises:
        ValueError: fewer rows than centroids.
    """
    if len(rows) < CENTROIDS:
        raise ValueError(
            f"a pq codec needs at least {CENTROIDS} different rows to fit its codebook, the source "
            f"gives {len(rows)}: take int8 or int4"
        )
    quantizer = faiss.ProductQuantizer(rows.shape[1], num_bytes, 8)
    quantizer.cp.niter = _ITERATIONS
    quantizer.cp.seed = 1
    quantizer.cp.min_points_per_centroid = 1  # no warning on stderr for small sources
    quantizer.train(np.ascontiguousarray(rows, np.float32))
    fitted = faiss.vector_to_array(quantizer.centroids)
    return fitted.reshape(num_bytes, CENTROIDS, -1).astype("<f4")


def codebook_digest(codebook: np.ndarray) -> str:
    """SHA-256 of its little-endian float32 bytes, in hex."""
    return hashlib.sha256(codebook.astype("<f4").tobytes()).hexdigest()


def codebook_from_bytes(data: bytes, name: str, digest: str, where: str) -> np.ndarray:
    """Read a codebook back.

    Raises:
        ValueError: it is not the one that the column was written with.
    """
    if hashlib.sha256(data).hexdigest() != digest:
        raise ValueError(f"{where} is not the codebook its column was written with; restore it")
    return np.frombuffer(data, "<f4").reshape(NUM_BYTES[name], CENTROIDS, -1).copy()


def product_codec(codebook: np.ndarray) -> Codec:
    """The codec of one codebook `(num_bytes, 256, d / num_bytes)`; it can be pickled."""
    return Codec(
        value_type=pa.uint8(),
        dtype=DTYPE,
        width=partial(_width, len(codebook)),
        encode=partial(_encode, codebook),
        decode_into=partial(_decode_into, codebook),
    )


def _width(num_bytes: int, dim: int) -> int:
    return num_bytes


def _encode(codebook: np.ndarray, rows: np.ndarray) -> np.ndarray:
    pieces, _, piece = codebook.shape
    quantizer = faiss.ProductQuantizer(pieces * piece, pieces, 8)
    faiss.copy_array_to_vector(codebook.reshape(-1), quantizer.centroids)
    if not len(rows):
        return np.empty((0, pieces), DTYPE)
    return quantizer.compute_codes(np.ascontiguousarray(rows, np.float32))


def _decode_into(codebook: np.ndarray, values: np.ndarray, rows: np.ndarray) -> None:
    rows[...] = codebook[np.arange(len(codebook)), values].reshape(rows.shape)
