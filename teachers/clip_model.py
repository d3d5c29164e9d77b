"""One wrapper for every dual encoder: unit rows out, preprocessing and tokenizer included.

Teacher and Student are both `ClipModel`s, so that one evaluator, one exporter and one loss serve
both. What differs (frozen or trained, how it is saved) is theirs.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

from teachers.contract import DualEncoder, Embeddings, Kind, Modality, Preprocess, Tokenizer


def unit_rows(rows: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """Scale rows to norm 1, in float32 at least (float64 stays float64)."""
    rows = rows if rows.dtype == torch.float64 else rows.float()
    return F.normalize(rows, dim=-1)


class ClipModel(nn.Module):
    """A dual encoder with everything needed to feed it.

    Args:
        module: any `DualEncoder`; open_clip models are.
        name: what reports, columns and error messages call it.
        preprocess: the pixels it was, or will be, trained on.
        tokenizer: texts to token ids.

    Raises:
        ValueError: when `module` lacks a part of the `DualEncoder` contract; names the part.
    """

    def __init__(
        self, module: nn.Module, *, name: str, preprocess: Preprocess, tokenizer: Tokenizer
    ) -> None:
        """Check the contract and keep the parts."""
        super().__init__()
        check_dual_encoder(module)
        self.module: Any = module  # a DualEncoder and an nn.Module; types cannot say both
        self.name = name
        self.modalities: tuple[Modality, ...] = ("image", "text")  # what it can embed
        self.preprocess = preprocess
        self.tokenizer = tokenizer

    @property
    def logit_scale(self) -> Tensor:
        """The logarithm of the scale, as the wrapped module holds it."""
        return self.module.logit_scale

    @property
    def logit_bias(self) -> Tensor | None:
        """The sigmoid loss's bias, or None."""
        return getattr(self.module, "logit_bias", None)

    @property
    def kind(self) -> Kind:
        """Which head the logits were trained for: a bias means the pairwise sigmoid."""
        return "softmax" if self.logit_bias is None else "sigmoid"

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.module.parameters()).device

    @cached_property
    def embed_dim(self) -> int:
        """The width of the embeddings, asked of the text tower once."""
        with evaluating(self), torch.no_grad():
            return self.encode_text(["a"]).shape[-1]

    def encode_image(self, images: Tensor | Sequence[Image.Image]) -> Float[Tensor, "n d"]:
        """Embed images as unit rows.

        Args:
            images: normalised pixels `(n, 3, image_size, image_size)`, or Pillow images, which
                are resized, centre-cropped and normalised first.
        """
        pixels = images if isinstance(images, Tensor) else self.to_pixels(images)
        return unit_rows(self.module.encode_image(pixels))

    def to_pixels(self, images: Sequence[Image.Image]) -> Float[Tensor, "n 3 size size"]:
        """Resize, centre-crop and normalise whole Pillow images, on the model's device."""
        views = np.stack([self.preprocess.whole_view(image) for image in images])
        return self.preprocess.normalize(torch.from_numpy(views).to(self.device))

    def encode_text(self, texts: Tensor | Sequence[str]) -> Float[Tensor, "n d"]:
        """Embed texts as unit rows; `texts` are token ids `(n, context_length)` or strings."""
        if not isinstance(texts, Tensor):
            texts = self.tokenizer(list(texts)).to(self.device)
        return unit_rows(self.module.encode_text(texts))

    def forward(self, images: Tensor, tokens: Tensor) -> Embeddings:
        """Embed a batch of pairs."""
        return self.with_head(self.encode_image(images), self.encode_text(tokens))

    def with_head(self, image: Tensor, text: Tensor) -> Embeddings:
        """Unit rows beside the scale and bias: the one place where the logarithm is undone."""
        bias = self.logit_bias
        scale = self.logit_scale.to(image.dtype).exp().reshape(())
        return Embeddings(image, text, scale, None if bias is None else bias.reshape(()))


def check_dual_encoder(module: nn.Module) -> None:
    """Raise a `ValueError` that says which part of the contract a module lacks."""
    for method in ("encode_image", "encode_text"):
        if not callable(getattr(module, method, None)):
            raise ValueError(
                f"{type(module).__name__} has no method {method}(); a teacher or student needs "
                "encode_image(pixels), encode_text(tokens) and the scalar logit_scale "
                "(the logarithm of the scale, as in open_clip)"
            )
    scale = getattr(module, "logit_scale", None)
    if not isinstance(scale, Tensor) or scale.numel() != 1:
        raise ValueError(
            f"{type(module).__name__}.logit_scale must be a scalar tensor or parameter that holds "
            f"the logarithm of the scale, got {type(scale).__name__}"
        )
    # Trained logarithms end near ln 100 = 4.6 (CLIP) or 4.8 (SigLIP); the scales themselves start
    # at 10 or 14.
    if scale.item() > 7:
        raise ValueError(
            f"{type(module).__name__}.logit_scale is {scale.item():.1f}: as a logarithm that is a "
            "scale above 1000. Store log(scale), as open_clip does, not the scale itself"
        )
    assert isinstance(module, DualEncoder)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put a module into evaluation mode for a while; each part gets its own mode back.

    What its towers have kept of an evaluation, such as timm's TinyViT its attention biases, is
    dropped before and after: weights may have changed, or may change.
    """
    modes = {part: part.training for part in module.modules()}
    module.train()
    module.eval()
    try:
        yield
    finally:
        module.train()
        for part, mode in modes.items():
            part.training = mode
