"""Teachers at work: views and captions in, unit rows and their norms out.

Batches have fixed boundaries inside a shard (every `batch_size` views, whatever the teachers), so
that a shard done again gives the same bits. NaN and infinity may be those of a narrow precision, or
of a bad moment: such rows are computed once more before they are given up.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from torch import Tensor, nn

from teachers import ClipModel, Preprocess
from teachers.clip_model import unit_rows


class Rows(NamedTuple):
    """Embeddings as a column keeps them.

    Attributes:
        unit: rows of norm 1; whatever where the norm is not finite or is 0.
        norms: what the rows' norms were.
    """

    unit: Float32[np.ndarray, "n d"]
    norms: Float32[np.ndarray, " n"]

    def problems(self) -> list[str | None]:
        """Say per row why it must not be stored, or None."""
        finite, zero = np.isfinite(self.norms), self.norms == 0
        return [
            "zero-embedding" if none else None if good else "non-finite-embedding"
            for good, none in zip(finite, zero, strict=True)
        ]


class ImageEmbedder:
    """One teacher's image tower, fed view by view."""

    def __init__(
        self, teacher: ClipModel, batch_size: int, *, look: Preprocess | None = None
    ) -> None:
        """Allocate one batch of pixels; an audit tries other looks than the teacher's own."""
        self._look = look or teacher.preprocess
        size = self._look.image_size
        self.teacher = teacher
        self._batch = np.empty((batch_size, size, size, 3), np.uint8)
        self._filled = 0
        self._rows: list[Rows] = []

    def add(self, pixels: UInt8[np.ndarray, "size size 3"]) -> None:
        """Take a view; embed when the batch is full."""
        self._batch[self._filled] = pixels
        self._filled += 1
        if self._filled == len(self._batch):
            self._flush()

    def finish(self) -> Rows:
        """Embed what is left and return everything since the last call."""
        if self._filled:
            self._flush()
        rows, self._rows = self._rows, []
        return _join(rows, self.teacher.embed_dim)

    def _flush(self) -> None:
        pixels = torch.from_numpy(self._batch[: self._filled]).to(self.teacher.device)
        pixels = self._look.normalize(pixels)
        # The tower and not `teacher.encode_image`, which drops the norm.
        self._rows.append(_embed(self.teacher, self.teacher.module.encode_image, pixels))
        self._filled = 0


def embed_texts(
    teacher: ClipModel,
    texts: Sequence[str],
    batch_size: int,
    between_batches: Callable[[], None] = lambda: None,
) -> Rows:
    """Embed texts in batches, in order."""
    rows = []
    for start in range(0, len(texts), batch_size):
        between_batches()
        tokens = teacher.tokenizer(list(texts[start : start + batch_size]))
        rows.append(_embed(teacher, teacher.module.encode_text, tokens.to(teacher.device)))
    return _join(rows, teacher.embed_dim)


@torch.no_grad()
def _embed(teacher: ClipModel, encode: Callable[[Tensor], Tensor], batch: Tensor) -> Rows:
    """Embed a batch; rows that are not finite are tried once more, with everything in float32."""
    in_bf16 = getattr(teacher, "precision", "fp32") == "bf16" and batch.is_floating_point()
    raw = encode(batch.bfloat16() if in_bf16 else batch).float()
    norms = torch.linalg.vector_norm(raw, dim=-1)
    if not norms.isfinite().all():
        with _in_float32(teacher.module):
            again = encode(batch).float()
        raw = torch.where(norms.isfinite().unsqueeze(-1), raw, again)
        norms = torch.linalg.vector_norm(raw, dim=-1)
    return Rows(unit_rows(raw).cpu().numpy(), norms.cpu().numpy())


@contextlib.contextmanager
def _in_float32(module: nn.Module) -> Iterator[None]:
    """Widen bf16 weights for a while; what is quantised stays so, its activations are float32."""
    narrow = [
        (tensor, tensor.data)
        for tensor in (*module.parameters(), *module.buffers())
        if tensor.dtype == torch.bfloat16
    ]
    try:
        for tensor, data in narrow:
            tensor.data = data.float()
        yield
    finally:
        for tensor, data in narrow:
            tensor.data = data


def _join(rows: list[Rows], embed_dim: int) -> Rows:
    if not rows:
        return Rows(np.empty((0, embed_dim), np.float32), np.empty(0, np.float32))
    return Rows(np.concatenate([r.unit for r in rows]), np.concatenate([r.norms for r in rows]))
