"""What every model is to the rest of the house: the words shared by all four packages.

A *model*, teacher or student, exposes `encode_image`, `encode_text` and `logit_scale` as its
logarithm, as open_clip does. `Embeddings` holds unit rows and the exponentiated scale.
`ClipModel.forward` (teachers/clip_model.py) converts for every loss; files on disk hold the factor.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from PIL import Image
from torch import Tensor

Kind = Literal["softmax", "sigmoid"]
Modality = Literal["image", "text"]

_RESAMPLING = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}
# Pixels; 224 x 224 of an image 330 times as wide as high.
_MAX_RESIZED = 1 << 24


class Embeddings(NamedTuple):
    """A batch as one model sees it.

    Attributes:
        image: unit rows, `(n, d)`.
        text: unit rows, `(n, d)`; row i belongs to row i of `image`.
        logit_scale: scalar, the factor itself (already exponentiated).
        logit_bias: scalar, or None; only models trained with the sigmoid loss have one.
    """

    image: Float[Tensor, "n d"]
    text: Float[Tensor, "n d"]
    logit_scale: Float[Tensor, ""]
    logit_bias: Float[Tensor, ""] | None = None


@runtime_checkable
class DualEncoder(Protocol):
    """What a user's own module must offer to be a teacher or a student.

    `logit_scale` is a scalar parameter that holds the *logarithm* of the scale (open_clip's
    convention). A scalar `logit_bias` is optional. Rows need not be normalised: `ClipModel` does.
    """

    logit_scale: Tensor

    def encode_image(self, images: Tensor, /) -> Tensor:
        """Map normalised pixels `(n, 3, size, size)` to embeddings `(n, d)`."""
        ...

    def encode_text(self, tokens: Tensor, /) -> Tensor:
        """Map token ids `(n, context_length)` to embeddings `(n, d)`."""
        ...


@runtime_checkable
class Tokenizer(Protocol):
    """Texts to token ids of one fixed length; `config` is what `load_tokenizer` reads back."""

    context_length: int
    vocab_size: int

    def __call__(self, texts: Sequence[str]) -> Int64[Tensor, "n context"]:
        """Tokenise and pad to `context_length`."""
        ...

    def config(self) -> dict[str, Any]:
        """Everything needed to rebuild this tokenizer, as JSON values."""
        ...


@dataclass(frozen=True, kw_only=True)
class Preprocess:
    """How a model wants its pixels: size, resampling and normalisation.

    `mean` and `std` are in units of the [0, 1] pixel range. `resize_mode` matters to whole images
    only: "shortest" scales the shorter side to `image_size` and crops the centre, "squash"
    ignores the aspect ratio. Views are crops already and are always resized to the square.
    """

    image_size: int
    mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)
    interpolation: Literal["bilinear", "bicubic"] = "bicubic"
    resize_mode: Literal["shortest", "squash"] = "shortest"

    def __post_init__(self) -> None:
        """Refuse what would only fail later, inside a worker."""
        if self.image_size < 1:
            raise ValueError(f"image_size must be at least 1 pixel, got {self.image_size}")
        if self.interpolation not in _RESAMPLING:
            raise ValueError(
                f"interpolation must be one of {sorted(_RESAMPLING)}, got {self.interpolation!r}"
            )
        if self.resize_mode not in ("shortest", "squash"):
            raise ValueError(f"resize_mode must be shortest or squash, got {self.resize_mode!r}")
        if min(self.std) <= 0:
            raise ValueError(f"std must be positive, got {self.std}")

    @property
    def resampling(self) -> Image.Resampling:
        """The Pillow filter behind `interpolation`."""
        return _RESAMPLING[self.interpolation]

    def whole_view(self, image: Image.Image) -> UInt8[np.ndarray, "size size 3"]:
        """Resize and centre-crop a whole image for evaluation, as open_clip's transform does.

        Where the resized image would be enormous (a strip of pixels), it is cropped first.
        """
        size = self.image_size
        width, height = image.size
        if self.resize_mode == "squash":
            resized = image.resize((size, size), self.resampling)
        elif size**2 * max(image.size) > _MAX_RESIZED * min(image.size):
            side = min(image.size)
            left, top = (width - side) / 2, (height - side) / 2
            box = (left, top, left + side, top + side)
            resized = image.resize((size, size), self.resampling, box=box)
        elif width <= height:
            resized = image.resize((size, int(size * height / width)), self.resampling)
        else:
            resized = image.resize((int(size * width / height), size), self.resampling)
        left = round((resized.width - size) / 2)
        top = round((resized.height - size) / 2)
        return np.array(resized.crop((left, top, left + size, top + size)).convert("RGB"))

    def normalize(self, pixels: UInt8[Tensor, "n h w 3"]) -> Float[Tensor, "n 3 h w"]:
        """Turn uint8 pixels into the float tensor that the model's image tower takes."""
        # Made on the CPU and copied without waiting: a GPU would be synchronised otherwise.
        mean, std = (
            (torch.tensor(numbers) * 255).to(pixels.device, non_blocking=True)
            for numbers in (self.mean, self.std)
        )
        return ((pixels.float() - mean) / std).permute(0, 3, 1, 2).contiguous()

    def config(self) -> dict[str, Any]:
        """Return JSON values; `Preprocess.from_config` reads them back."""
        return asdict(self)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Preprocess":
        """Rebuild from `config()`."""
        return cls(**{**config, "mean": tuple(config["mean"]), "std": tuple(config["std"])})
