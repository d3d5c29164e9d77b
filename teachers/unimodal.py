"""Teachers of one modality: an image encoder or a text encoder alone, as SAIL and LLM2CLIP use.

Such a teacher has no logit scale and nothing to compare its rows with; a store keeps its rows of
the one modality, and heads trained on them make a student (students/composing.py). What a missing
half is asked for raises a `ValueError` that says so.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor, nn

from teachers.clip_model import evaluating
from teachers.contract import Modality, Preprocess
from teachers.teacher import Teacher


class OneEncoder(nn.Module):
    """A dual encoder with one half missing; `encode_image` or `encode_text` is a subclass's."""

    def __init__(self) -> None:
        """Have a scale of 1, which nobody reads."""
        super().__init__()
        self.register_buffer("logit_scale", torch.zeros(()), persistent=False)

    def encode_image(self, images: Tensor, /) -> Tensor:
        """Refuse."""
        raise ValueError("this teacher reads texts alone: it has no image encoder")

    def encode_text(self, tokens: Tensor, /) -> Tensor:
        """Refuse."""
        raise ValueError("this teacher sees pictures alone: it has no text encoder")


class NoTokenizer:
    """The tokenizer of a teacher that reads no texts."""

    context_length = 0
    vocab_size = 0

    def __call__(self, texts: Sequence[str]) -> Int64[Tensor, "n context"]:
        """Refuse."""
        raise ValueError("this teacher sees pictures alone: it has no tokenizer")

    def config(self) -> dict[str, Any]:
        """Say that there is none."""
        return {"type": "none"}


# A text encoder has no pixels; the fingerprint wants to know of some.
NO_PICTURES = Preprocess(image_size=1)


class UnimodalTeacher(Teacher):
    """A frozen encoder of one modality; `load_teacher("timm/NAME")` and "hf-text:ID" make one."""

    def __init__(self, module: nn.Module, *, modality: Modality, **parts: Any) -> None:
        """Take the module over as `Teacher` does."""
        super().__init__(module, **parts)
        self.modalities = (modality,)

    @cached_property
    def embed_dim(self) -> int:
        """The width of the rows, asked of the one encoder once."""
        if self.modalities == ("text",):
            return super().embed_dim
        size = self.preprocess.image_size
        with evaluating(self), torch.no_grad():
            return self.encode_image(torch.zeros(1, 3, size, size, device=self.device)).shape[-1]
