"""A frozen dual encoder: what it knows may be read and written down, never changed.

A teacher carries what a store has to record of it: precision, licence, and a fingerprint that is
the same wherever and however often the same weights are loaded.
"""

import hashlib
import json
from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from open_clip.transformer import LayerNormFp32
from PIL import Image
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from teachers.clip_model import ClipModel, unit_rows
from teachers.contract import Preprocess, Tokenizer
from teachers.quantization import quantize
from teachers.suggestions import unknown_name

Precision = Literal["fp32", "bf16", "int8", "nf4"]
PRECISIONS: tuple[str, ...] = get_args(Precision)


class Teacher(ClipModel):
    """A `ClipModel` that stays as it is: in eval mode, without gradients.

    Args:
        module: any `DualEncoder`. It is taken over: moved, converted and frozen in place
            (`load_teacher` copies a ready module first).
        name: what reports, columns and error messages call it.
        preprocess: the pixels it was trained on.
        tokenizer: texts to token ids; must have `config()`.
        precision: fp32; bf16 (weights and activations); int8 or nf4 (Linear weights only, see
            teachers/quantization.py). Embeddings are unit rows in float32 whichever it is.
        device: where it stays. Quantised weights are made for the device they are made on.
        licence: of the weights, where known.
        source: the architecture as JSON values, where it can be rebuilt from such.

    Attributes:
        fingerprint: hex sha256 over weights as loaded (before conversion, so that CPU and GPU
            agree), precision, preprocessing and tokenizer.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        name: str,
        preprocess: Preprocess,
        tokenizer: Tokenizer,
        precision: Precision = "fp32",
        device: str | torch.device = "cpu",
        licence: str | None = None,
        source: dict[str, Any] | None = None,
    ) -> None:
        """Fingerprint, convert and freeze."""
        check_precision(precision)
        super().__init__(module, name=name, preprocess=preprocess, tokenizer=tokenizer)
        self.precision = precision
        self.licence = licence
        self.source = source
        self.fingerprint = fingerprint(
            module, precision=precision, preprocess=preprocess, tokenizer=tokenizer
        )
        self.requires_grad_(False)
        self.eval()
        self.to(device)
        _convert(module, precision)

    @property
    def context_length(self) -> int:
        """The tokens per text that the text tower takes."""
        return self.tokenizer.context_length

    def train(self, mode: bool = True) -> "Teacher":
        """Stay in eval mode, whatever a trainer asks of the model that holds this one."""
        super().train(False)
        return self

    def requires_grad_(self, requires_grad: bool = True) -> "Teacher":
        """Stay without gradients."""
        super().requires_grad_(False)
        return self

    @torch.no_grad()
    def encode_image(self, images: Tensor | Sequence[Image.Image]) -> Float[Tensor, "n d"]:
        """Embed pixels or Pillow images as unit rows in float32, without gradient."""
        pixels = images if isinstance(images, Tensor) else self.to_pixels(images)
        dtype = torch.bfloat16 if self.precision == "bf16" else torch.float32
        return unit_rows(self.module.encode_image(pixels.to(dtype)))

    @torch.no_grad()
    def encode_text(self, texts: Tensor | Sequence[str]) -> Float[Tensor, "n d"]:
        """Embed token ids or strings as unit rows in float32, without gradient."""
        return super().encode_text(texts)


def fingerprint(
    module: nn.Module, *, precision: str, preprocess: Preprocess, tokenizer: Tokenizer
) -> str:
    """Return the sha256 of all that decides an embedding: weights, precision, pixels, tokens."""
    digest = _weights_digest(module)
    settings: dict[str, Any] = {
        "precision": precision,
        "preprocess": preprocess.config(),
        "tokenizer": tokenizer.config(),
    }
    digest.update(json.dumps(settings, sort_keys=True).encode())
    return digest.hexdigest()


def hash_weights(module: nn.Module) -> str:
    """Return the sha256 of names, types and values of all weights, in hex."""
    return _weights_digest(module).hexdigest()


def check_precision(precision: str) -> None:
    """Raise a `ValueError` that lists the precisions there are."""
    if precision not in PRECISIONS:
        raise unknown_name("precision", precision, PRECISIONS)


def _weights_digest(module: nn.Module) -> Any:
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest


def _convert(module: Any, precision: Precision) -> None:
    scalars = {name: getattr(module, name, None) for name in ("logit_scale", "logit_bias")}
    kept = {name: t.detach().float() for name, t in scalars.items() if isinstance(t, Tensor)}
    if precision == "bf16":
        module.to(torch.bfloat16)
        for part in module.modules():
            # Both compute in float32 inside; a variance rounded to 8 bits shifts whole channels.
            if isinstance(part, LayerNormFp32 | _BatchNorm):
                part.float()
    else:
        module.float()
    if precision in ("int8", "nf4"):
        quantize(module, precision)
    for name, value in kept.items():
        getattr(module, name).data = value
