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

from reinforced_data.attention import ranks
from teachers import ClipModel, Preprocess
from teachers.clip_model import unit_rows
from teachers.patch_attention import PatchAttention, attention_tower


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
    """One teacher's image tower, fed view by view.

    The tower runs one batch ahead of what is looked at: a GPU computes a batch while the next one
    is being filled, and is never waited for in between.
    """

    def __init__(
        self,
        teacher: ClipModel,
        batch_size: int,
        *,
        look: Preprocess | None = None,
        attention: bool = False,
    ) -> None:
        """Allocate two batches of pixels; an audit tries other looks than the teacher's own.

        With `attention` what the last block looks at is kept too, from the same forward pass.
        """
        self._look = look or teacher.preprocess
        size = self._look.image_size
        self.teacher = teacher
        pinned = teacher.device.type == "cuda"
        # One is filled while the other may still be on its way to the device.
        self._buffers = [
            torch.empty((batch_size, size, size, 3), dtype=torch.uint8, pin_memory=pinned)
            for _ in range(2)
        ]
        self._pixels = [buffer.numpy() for buffer in self._buffers]
        self._filled = 0
        # The tower and not `teacher.encode_image`, which drops the norm.
        self._run = _RunAhead(teacher, self._encode)
        self._attention: PatchAttention | None = None
        self._maps: list[Tensor] = []
        if attention:
            vit = attention_tower(teacher.module, teacher.name)
            self._maps = [torch.empty((0, *vit.grid))]
            self._attention = PatchAttention(vit, [len(vit.blocks) - 1])

    def add(self, pixels: UInt8[np.ndarray, "size size 3"]) -> None:
        """Take a view; embed when the batch is full."""
        self._pixels[0][self._filled] = pixels
        self._filled += 1
        if self._filled == len(self._buffers[0]):
            self._flush()

    def finish(self) -> Rows:
        """Embed what is left and return everything since the last call."""
        if self._filled:
            self._flush()
        return self._run.finish()

    def finish_attention(self) -> UInt8[np.ndarray, "n rows columns"]:
        """What was looked at in each view, as ranks; call it after `finish`."""
        assert self._attention is not None
        self._attention.detach()
        return ranks(torch.cat([maps.cpu() for maps in self._maps]).numpy())

    def _flush(self) -> None:
        pixels = self._buffers[0][: self._filled]
        # Not the buffer itself: until it is looked at, a batch may have to be computed again.
        device = self.teacher.device
        copy = pixels.to(device, non_blocking=True) if device.type != "cpu" else pixels.clone()
        self._run.add(copy)
        self._buffers.reverse()
        self._pixels.reverse()
        self._filled = 0

    def _encode(self, pixels: Tensor, dtype: torch.dtype) -> Tensor:
        rows = self.teacher.module.encode_image(self._look.normalize(pixels).to(dtype))
        if self._attention is not None:
            scores = self._attention.take()
            if not self._run.again:  # or a batch's maps would be kept twice
                self._maps.append(scores)
        return rows


def embed_texts(
    teacher: ClipModel,
    texts: Sequence[str],
    batch_size: int,
    between_batches: Callable[[], None] = lambda: None,
) -> Rows:
    """Embed texts in batches, in order."""
    run = _RunAhead(teacher, lambda tokens, _: teacher.module.encode_text(tokens))
    for start in range(0, len(texts), batch_size):
        between_batches()
        tokens = teacher.tokenizer(list(texts[start : start + batch_size]))
        run.add(tokens.to(teacher.device))
    return run.finish()


class _Launched(NamedTuple):
    """A batch whose rows are being computed, or on their way back."""

    batch: Tensor
    unit: Tensor
    norms: Tensor
    arrived: torch.cuda.Event | None


class _RunAhead:
    """Runs a tower batch by batch; each result is fetched only when the next batch has begun."""

    def __init__(self, teacher: ClipModel, encode: Callable[[Tensor, torch.dtype], Tensor]) -> None:
        """Remember `encode`: a batch and the dtype of its activations to rows."""
        self._teacher, self._encode = teacher, encode
        bf16 = getattr(teacher, "precision", "fp32") == "bf16"
        self.dtype = torch.bfloat16 if bf16 else torch.float32
        self.again = False  # whether what is encoded now was encoded before
        self._launched: _Launched | None = None
        self._rows: list[Rows] = []

    @torch.no_grad()
    def add(self, batch: Tensor) -> None:
        """Begin with a batch, which lies on the teacher's device; then fetch the one before."""
        unit, norms = _unit_and_norms(self._encode(batch, self.dtype).float())
        arrived = None
        if unit.is_cuda:
            # Queued before the next batch: asked for later, they would wait for that one too.
            unit, norms = (part.to("cpu", non_blocking=True) for part in (unit, norms))
            arrived = torch.cuda.Event()
            arrived.record()
        before, self._launched = self._launched, _Launched(batch, unit, norms, arrived)
        self._fetch(before)

    def finish(self) -> Rows:
        """Fetch the last batch and return all rows since the last call."""
        before, self._launched = self._launched, None
        self._fetch(before)
        rows, self._rows = self._rows, []
        return _join(rows, self._teacher.embed_dim)

    @torch.no_grad()
    def _fetch(self, launched: _Launched | None) -> None:
        """Wait for a batch; rows that are not finite are tried once more, all in float32."""
        if launched is None:
            return
        batch, unit, norms, arrived = launched
        if arrived is not None:
            arrived.synchronize()
        unit, norms = unit.cpu(), norms.cpu()
        good = norms.isfinite()
        if not good.all():
            self.again = True
            with _in_float32(self._teacher.module):
                again = _unit_and_norms(self._encode(batch, torch.float32).float())
            self.again = False
            unit = torch.where(good.unsqueeze(-1), unit, again[0].cpu())
            norms = torch.where(good, norms, again[1].cpu())
        self._rows.append(Rows(unit.numpy(), norms.numpy()))


def _unit_and_norms(raw: Tensor) -> tuple[Tensor, Tensor]:
    return unit_rows(raw), torch.linalg.vector_norm(raw, dim=-1)


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
