"""What a student is made of, as plain values: a vision tower's name, a text tower's sizes.

The specification says nothing about weights. It goes through JSON unchanged, which is how a saved
student is rebuilt.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from teachers.contract import Preprocess
from teachers.suggestions import unknown_name

TEXT_ARCHITECTURES = ("transformer", "mct")

_OPENAI = Preprocess(image_size=224)


@dataclass(frozen=True, kw_only=True)
class TextSpec:
    """A text tower, pooled at the end token as CLIP's are.

    Attributes:
        width: channels; a multiple of `heads`.
        layers: transformer blocks.
        heads: attention heads.
        context_length: token ids a text; must be the tokenizer's.
        vocab_size: rows of the embedding table; None takes the tokenizer's.
        architecture: "transformer" is CLIP's, causal; "mct" is MobileCLIP-S0's, which has a
            convolutional block before and after its transformer blocks and sees the whole text.
        mlp_ratio: units of a block's MLP for one of the width; of "transformer" alone.
    """

    width: int
    layers: int
    heads: int
    context_length: int = 77
    vocab_size: int | None = None
    architecture: str = "transformer"
    mlp_ratio: float = 4.0

    def __post_init__(self) -> None:
        """Refuse what would fail inside the transformer."""
        for name in ("width", "layers", "heads", "context_length"):
            if getattr(self, name) < 1:
                raise ValueError(f"TextSpec.{name} must be at least 1, got {getattr(self, name)}")
        if self.width % self.heads:
            raise ValueError(
                f"TextSpec.width {self.width} is no multiple of its {self.heads} heads; "
                f"the nearest below is {self.width - self.width % self.heads}"
            )
        if self.architecture not in TEXT_ARCHITECTURES:
            raise unknown_name("TextSpec.architecture", self.architecture, TEXT_ARCHITECTURES)
        if self.mlp_ratio <= 0 or (self.architecture == "mct" and self.mlp_ratio != 4.0):
            raise ValueError(
                f"TextSpec.mlp_ratio must be above 0, and 4 for the architecture mct, got "
                f"{self.mlp_ratio} for {self.architecture}"
            )


@dataclass(frozen=True, kw_only=True)
class StudentSpec:
    """Two towers and the pixels they see.

    Attributes:
        image: any timm model name, "smallconv-W" for a small convolutional tower of width W, or
            "smallvit-W" for a small transformer.
        text: the text tower.
        embed_dim: width of the shared embedding.
        image_size: side of the square picture, in pixels.
        mean: of the pixels in [0, 1], taken off before the tower.
        std: what they are divided by.
        interpolation: how pictures are resized.
        image_options: arguments of the timm model in place of its own, such as its widths.
    """

    image: str
    text: TextSpec
    embed_dim: int
    image_size: int
    mean: tuple[float, float, float] = _OPENAI.mean
    std: tuple[float, float, float] = _OPENAI.std
    interpolation: Literal["bilinear", "bicubic"] = field(default=_OPENAI.interpolation)
    image_options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse impossible sizes; `Preprocess` checks the rest."""
        if self.embed_dim < 1:
            raise ValueError(f"StudentSpec.embed_dim must be at least 1, got {self.embed_dim}")
        _ = self.preprocess

    @property
    def preprocess(self) -> Preprocess:
        """The pixels this student wants."""
        return Preprocess(
            image_size=self.image_size,
            mean=self.mean,
            std=self.std,
            interpolation=self.interpolation,
        )

    def config(self) -> dict[str, Any]:
        """Return JSON values; `StudentSpec.from_config` reads them back."""
        return {**asdict(self), "mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "StudentSpec":
        """Rebuild from `config()`, or from the same after a trip through JSON."""
        text = TextSpec(**config["text"])
        mean, std = tuple(config["mean"]), tuple(config["std"])
        return cls(**{**config, "text": text, "mean": mean, "std": std})


@dataclass(frozen=True, kw_only=True)
class OpenClipSpec:
    """An open_clip configuration with some of its values changed.

    Attributes:
        model: open_clip's name.
        vision: values that replace those of its `vision_cfg`.
        text: values that replace those of its `text_cfg`.
        embed_dim: width of the shared embedding; open_clip's own when None.
        image_options: where the image tower is timm's, arguments in place of its own.
        text_options: where the text tower is transformers', the values of its whole configuration,
            `model_type` among them; none is downloaded then.
    """

    model: str
    vision: Mapping[str, Any] = field(default_factory=dict)
    text: Mapping[str, Any] = field(default_factory=dict)
    embed_dim: int | None = None
    image_options: Mapping[str, Any] = field(default_factory=dict)
    text_options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_source(cls, source: Mapping[str, Any]) -> "OpenClipSpec":
        """Rebuild from a student's `source`; older ones know fewer of the fields."""
        return cls(
            model=source["model"],
            vision=source.get("vision", {}),
            text=source["text"] or {},
            embed_dim=source.get("embed_dim"),
            image_options=source.get("image_options", {}),
            text_options=source.get("text_options", {}),
        )
