"""For tests: a small image tower of every family that inheritance is proved on; a text tower."""

from collections.abc import Callable

import open_clip
import timm
from open_clip.modified_resnet import ModifiedResNet
from torch import Tensor, nn

from students.inheritance.testing import WORDS
from students.small_towers import SmallConv


def open_clip_vit(width: int = 64, heads: int = 4, layers: int = 3, **sizes) -> nn.Module:
    """open_clip's own."""
    values = {"image_size": 32, "patch_size": 8, "mlp_ratio": 4.0, "output_dim": 16, **sizes}
    return open_clip.transformer.VisionTransformer(
        width=width, heads=heads, layers=layers, **values
    )


def timm_vit(width: int = 64, heads: int = 4, depth: int = 3, **sizes) -> nn.Module:
    """timm's."""
    values = {"img_size": 32, "patch_size": 8, "num_classes": 16, **sizes}
    return timm.models.VisionTransformer(embed_dim=width, num_heads=heads, depth=depth, **values)


def siglip_vit(**sizes) -> nn.Module:
    """Pooled by attention, without a class token."""
    return timm_vit(class_token=False, global_pool="map", **sizes)


def fastvit(*widths: int, layers: tuple[int, ...] = (1, 1, 1, 2), ratio: int = 3) -> nn.Module:
    """MobileCLIP's image tower."""
    return timm.create_model(
        "fastvit_mci0",
        num_classes=16,
        embed_dims=widths,
        layers=layers,
        mlp_ratios=(ratio,) * 4,
    )


def convnext(*widths: int) -> nn.Module:
    """A convolutional tower with LayerNorms."""
    return timm.models.ConvNeXt(num_classes=16, depths=(1, 1, 2, 1), dims=widths)


def repvit(*widths: int) -> nn.Module:
    """Branches of convolutions, each with BatchNorm."""
    return timm.models.RepVit(num_classes=16, embed_dim=widths, depth=(1, 1, 1, 1))


def tinyvit(*widths: int) -> nn.Module:
    """Its attention adds a table of biases, a row a head, looked up by distance."""
    return timm.models.TinyVit(
        num_classes=16,
        embed_dims=widths,
        depths=(1, 1, 1, 1),
        num_heads=tuple(width // 8 for width in widths),
        window_sizes=(7, 7, 7, 7),
    )


def vitamin(width: int, heads: int) -> nn.Module:
    """Two convolutional stages, then transformer blocks with gated MLPs."""
    cells = timm.models.vitamin.VitCfg(
        embed_dim=(width // 4, width // 2, width),
        depths=(1, 1, 1),
        stem_width=width // 4,
        conv_cfg=timm.models.vitamin.VitConvCfg(norm_layer="layernorm2d", norm_eps=1e-6),
        head_type="1d",
    )
    return timm.create_model(
        "vitamin_small_224",
        img_size=32,
        num_classes=16,
        embed_dim=width,
        num_heads=heads,
        depth=2,
        embed_cfg=cells,
    )


# A donor, and a student half as wide.
PAIRS: dict[str, tuple[Callable[[], nn.Module], Callable[[], nn.Module]]] = {
    "open_clip ViT": (open_clip_vit, lambda: open_clip_vit(32, 2)),
    "timm ViT": (lambda: timm_vit(init_values=1.0), lambda: timm_vit(32, 2, init_values=1.0)),
    "SigLIP ViT": (siglip_vit, lambda: siglip_vit(width=32, heads=2)),
    "ViTamin": (lambda: vitamin(64, 4), lambda: vitamin(32, 2)),
    "ResNet": (
        lambda: ModifiedResNet([1, 1, 1, 1], 16, 4, 32, 16),
        lambda: ModifiedResNet([1, 1, 1, 1], 16, 2, 32, 8),
    ),
    "FastViT": (lambda: fastvit(32, 64, 128, 256), lambda: fastvit(16, 32, 64, 128)),
    "FastViT, MLPs": (
        lambda: fastvit(16, 32, 64, 128, ratio=4),
        lambda: fastvit(16, 32, 64, 128, ratio=3),
    ),
    "ConvNeXt": (lambda: convnext(16, 32, 64, 128), lambda: convnext(8, 16, 32, 64)),
    "MobileNetV4": (
        lambda: timm.create_model("mobilenetv4_conv_small_050", num_classes=16),
        lambda: timm.create_model("mobilenetv4_conv_small_035", num_classes=16),
    ),
    "RepViT": (lambda: repvit(16, 32, 64, 128), lambda: repvit(8, 16, 32, 64)),
    "TinyViT": (lambda: tinyvit(32, 32, 64, 64), lambda: tinyvit(16, 16, 32, 32)),
    "SmallConv": (lambda: SmallConv(8, 16), lambda: SmallConv(4, 16)),
}


class TransformersText(nn.Module):
    """CLIP's text tower as transformers builds it.

    Args:
        width: of the residual stream; heads of 16, MLPs four times as wide.
    """

    def __init__(self, width: int = 64) -> None:
        """Build it for the test's words."""
        import transformers

        super().__init__()
        config = transformers.CLIPTextConfig(
            vocab_size=WORDS.vocab_size,
            hidden_size=width,
            intermediate_size=4 * width,
            num_hidden_layers=4,
            num_attention_heads=width // 16,
            max_position_embeddings=8,
            projection_dim=16,
            hidden_act="gelu",
            bos_token_id=1,
            eos_token_id=2,  # the old models' way to pool: at the largest id
            pad_token_id=0,
        )
        self.model = transformers.CLIPTextModelWithProjection(config)

    def forward(self, tokens: Tensor) -> Tensor:
        """Embed token ids."""
        return self.model(input_ids=tokens).text_embeds
