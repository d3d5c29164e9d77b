"""The members of a DataCompDR sample: synthetic captions, augmentation parameters, embeddings.

As Apple publishes them: `syn.json`, `paug.json`, `json` with uid and sha256, and `npz` or, in the
bfloat16 edition, `pth.gz`. They come from strangers: nothing is unpickled but tensors
(`weights_only`), and nothing is decompressed beyond `MAX_BYTES`.
"""

import gzip
import io
import json
import math
import pickle
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32

from reinforced_data.datacompdr.views import NoView, parameters

MAX_BYTES = 1 << 24
"""Of a member, packed and unpacked; 30 views and 6 texts of 1536 numbers are 221 KB."""

IMAGES, TEXTS, SYNTHETIC_TEXTS = "image_emb", "text_emb", "syn_text_emb"


class Unusable(ValueError):  # noqa: N818 - it reads better where it is caught
    """A published sample that cannot be imported; `reason` is the word that reports count."""

    def __init__(self, reason: str, detail: str) -> None:
        """Keep the reason beside the message."""
        super().__init__(f"{reason}: {detail}")
        self.reason = reason


@dataclass(frozen=True, kw_only=True)
class Published:
    """One sample as it was published; d is the width of all teachers side by side.

    Attributes:
        sha256: of the original picture's bytes, in hex, where it is said.
        parameters: of each view.
        image: rows of the views.
        text: rows of the original captions, then of the synthetic ones.
        synthetic: the synthetic captions.
    """

    sha256: str | None
    parameters: list[Any]
    image: Float32[np.ndarray, "views d"]
    text: Float32[np.ndarray, "texts d"]
    synthetic: tuple[str, ...]


def read_published(members: Mapping[str, bytes]) -> Published:
    """Read a sample's members by extension.

    Raises:
        Unusable: a member is missing, broken, too large, or does not fit the others.
    """
    arrays = _embeddings(members)
    if IMAGES not in arrays or TEXTS not in arrays:
        raise Unusable("bad-embeddings", f"has {sorted(arrays)}, not {IMAGES} and {TEXTS}")
    text = arrays[TEXTS]
    if SYNTHETIC_TEXTS in arrays:
        # MobileCLIP2's layout has the synthetic captions apart.
        text = np.concatenate([text, arrays[SYNTHETIC_TEXTS]])
    image, synthetic = arrays[IMAGES], _synthetic(members)
    try:
        found = parameters(members.get("paug.json", b""))
    except NoView as error:
        raise Unusable(error.reason, "paug.json") from error
    if len(found) != len(image):
        raise Unusable("bad-parameters", f"{len(found)} for {len(image)} views")
    if image.shape[1] != text.shape[1] or len(text) <= len(synthetic):
        raise Unusable(
            "bad-embeddings",
            f"image rows {image.shape}, text rows {text.shape}, {len(synthetic)} captions",
        )
    return Published(
        sha256=_object(members.get("json", b"{}")).get("sha256"),
        parameters=found,
        image=image,
        text=text,
        synthetic=synthetic,
    )


def _synthetic(members: Mapping[str, bytes]) -> tuple[str, ...]:
    texts = _object(members.get("syn.json", b"{}")).get("syn_text", [])
    good = isinstance(texts, list) and all(isinstance(text, str) for text in texts)
    if not good:
        raise Unusable("bad-synthetic-captions", f"{str(texts)[:80]!r}")
    try:
        "".join(texts).encode()
    except UnicodeEncodeError as error:
        raise Unusable("bad-synthetic-captions", str(error)) from error
    return tuple(texts)


def _object(member: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(member)
    except (ValueError, RecursionError):
        return {}
    return fields if isinstance(fields, dict) else {}


def _embeddings(members: Mapping[str, bytes]) -> dict[str, np.ndarray]:
    if "npz" in members:
        read, data = _from_npz, members["npz"]
    elif "pth.gz" in members:
        read, data = _from_torch, members["pth.gz"]
    else:
        raise Unusable("no-embeddings", f"neither npz nor pth.gz, only {sorted(members)}")
    try:
        return read(data)
    except Unusable:
        raise
    except (
        *(ValueError, TypeError, KeyError, IndexError, OSError, EOFError, RuntimeError),
        *(MemoryError, NotImplementedError, zipfile.BadZipFile, zlib.error),
        pickle.UnpicklingError,
    ) as error:
        raise Unusable("bad-embeddings", f"{type(error).__name__}: {error}") from error


def _from_npz(data: bytes) -> dict[str, np.ndarray]:
    _check_zip(data)
    arrays = {}
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        for name in (IMAGES, TEXTS, SYNTHETIC_TEXTS):
            if name in file.files:
                arrays[name] = _as_float32(file[name])
    return arrays


def _as_float32(array: np.ndarray) -> np.ndarray:
    if array.dtype == np.dtype("V2") or array.dtype == np.uint16:
        # bfloat16, which NumPy has no name for.
        array = (np.ascontiguousarray(array).view(np.uint16).astype(np.uint32) << 16).view("<f4")
    if array.ndim != 2 or not np.issubdtype(array.dtype, np.floating):
        raise ValueError(f"an array of {array.dtype} and shape {array.shape}")
    return array.astype(np.float32)


def _from_torch(data: bytes) -> dict[str, np.ndarray]:
    with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
        unpacked = file.read(MAX_BYTES + 1)
    if len(unpacked) > MAX_BYTES:
        raise Unusable("embeddings-too-large", f"more than {MAX_BYTES} bytes unpacked")
    _check_zip(unpacked)
    found = torch.load(io.BytesIO(unpacked), map_location="cpu", weights_only=True)
    arrays = {}
    for name in (IMAGES, TEXTS, SYNTHETIC_TEXTS):
        if name not in found:
            continue
        tensor = found[name]
        # A tensor can claim any shape: a stride of 0 makes a terabyte of four bytes.
        if tensor.ndim != 2 or tensor.numel() * 4 > MAX_BYTES or not tensor.is_floating_point():
            raise ValueError(f"a tensor of {tensor.dtype} and shape {tuple(tensor.shape)}")
        arrays[name] = tensor.float().numpy()
    return arrays


def _check_zip(data: bytes) -> None:
    """Refuse what would unpack to more than `MAX_BYTES`; both kinds of file are zips.

    Raises:
        Unusable: it would.
        zipfile.BadZipFile: it is no zip.
    """
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        size = sum(entry.file_size for entry in archive.infolist())
        if size > MAX_BYTES:
            raise Unusable("embeddings-too-large", f"{size} bytes unpacked")
        for entry in archive.infolist():
            if entry.filename.endswith(".npy"):
                with archive.open(entry) as file:
                    _check_npy(file, entry.file_size)


def _check_npy(file: Any, size: int) -> None:
    """NumPy reserves what a header promises before it looks at what there is."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0
    if version != (1, 0):
        read = np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    if math.prod(shape) * dtype.itemsize > size:
        raise ValueError(f"a header of shape {shape} in {size} bytes")
