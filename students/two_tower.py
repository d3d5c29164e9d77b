"""The module behind a `StudentSpec`: one timm (or small) image tower, one open_clip text tower.

Its parts are named `visual`, `text`, `logit_scale` and `logit_bias`, as in open_clip's
CustomTextCLIP, so that whatever walks an open_clip student walks this one too.
"""

import math
from collections.abc import Mapping
from typing import Any

import open_clip
import timm
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from students.convolutional_text import ConvolutionalText
from students.small_towers import PREFIX, VIT_PREFIX, small_tower
from students.spec import StudentSpec
from teachers.contract import Kind
from teachers.suggestions import did_you_mean

# CLIP's and SigLIP's own starting points (arXiv:2103.00020, arXiv:2303.15343).
SOFTMAX_SCALE = math.log(1 / 0.07)
SIGMOID_SCALE = math.log(10.0)
SIGMOID_BIAS = -10.0


TEXT_TOWERS = {
    "transformer": open_clip.transformer.TextTransformer,
    "mct": ConvolutionalText,
}


class TwoTower(nn.Module):
    """A dual encoder; `spec.text.vocab_size` has to be known by now.

    Args:
        spec: what to build.
        kind: the head; "sigmoid" adds a trained bias.
    """

    def __init__(self, spec: StudentSpec, *, kind: Kind = "softmax") -> None:
        """Build both towers with random weights."""
        super().__init__()
        assert spec.text.vocab_size is not None
        self.visual = image_tower(spec.image, spec.embed_dim, spec.image_size, spec.image_options)
        tower = TEXT_TOWERS[spec.text.architecture]
        own = {} if spec.text.mlp_ratio == 4.0 else {"mlp_ratio": spec.text.mlp_ratio}
        self.text = tower(
            context_length=spec.text.context_length,
            vocab_size=spec.text.vocab_size,
            width=spec.text.width,
            heads=spec.text.heads,
            layers=spec.text.layers,
            output_dim=spec.embed_dim,
            **own,
        )
        sigmoid = kind == "sigmoid"
        self.logit_scale = nn.Parameter(torch.tensor(SIGMOID_SCALE if sigmoid else SOFTMAX_SCALE))
        self.logit_bias = nn.Parameter(torch.tensor(SIGMOID_BIAS)) if sigmoid else None

    def encode_image(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n d"]:
        """Embed normalised pixels."""
        return self.visual(images)

    def encode_text(self, tokens: Int[Tensor, "n context"]) -> Float[Tensor, "n d"]:
        """Embed token ids."""
        return self.text(tokens)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute activations in the backward pass, in both towers."""
        switch = getattr(self.visual, "set_grad_checkpointing", None)
        try:
            if switch is None:
                raise AssertionError("no such method")
            switch(enable)
        except AssertionError as error:  # timm's way to say that a tower cannot
            raise ValueError(
                f"the image tower {type(self.visual).__name__} cannot checkpoint activations "
                f"({error}); switch checkpointing off, or take a tower that can, such as a ViT"
            ) from error
        self.text.set_grad_checkpointing(enable)


def image_tower(
    name: str, embed_dim: int, image_size: int, options: Mapping[str, Any] | None = None
) -> nn.Module:
    """Build an image tower by its timm name, or a small one, with `embed_dim` outputs.

    Raises:
        ValueError: when timm knows no such model; proposes the nearest names.
    """
    if name.startswith((PREFIX, VIT_PREFIX)):
        if options:
            raise ValueError(f"{name} takes no image_options, got {sorted(options)}")
        return small_tower(name, embed_dim, image_size)
    if not timm.is_model(name):
        hint = did_you_mean(name, timm.list_models())
        raise ValueError(f"no image tower {name!r} in timm {timm.__version__}{hint}")
    given = dict(options or {})
    try:
        return timm.create_model(name, num_classes=embed_dim, img_size=image_size, **given)
    except TypeError as error:
        if "img_size" not in str(error):
            raise
        # Fully convolutional towers take any size and no such argument.
        return timm.create_model(name, num_classes=embed_dim, **given)
