"""One face for the image transformers there are: open_clip's own and timm's, wrapped or not.

What token reduction (students/tokens) and stored attention need to know of a tower: its blocks, its
patches, its class and register tokens, and the queries and keys of an attention layer. Left out:
towers with rotary or relative positions, windows or stages, whose layers need to know where a
token was.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch.nn.functional as F
from jaxtyping import Float
from open_clip.timm_model import TimmModel
from open_clip.transformer import Attention as OpenClipAttention
from open_clip.transformer import CustomResidualAttentionBlock, ResidualAttentionBlock
from open_clip.transformer import VisionTransformer as OpenClipVit
from timm.layers.attention import Attention as TimmAttention
from timm.models.vision_transformer import Block
from timm.models.vision_transformer import VisionTransformer as TimmVit
from torch import Tensor, nn

from teachers.split_attention import SplitAttention

_POOLING: dict[str, Literal["class", "mean"]] = {
    **{"tok": "class", "token": "class"},
    "avg": "mean",
}


@dataclass(frozen=True, kw_only=True)
class Vit:
    """A transformer tower seen from outside.

    Attributes:
        tower: open_clip's or timm's module.
        blocks: in order.
        before_blocks: the module through which tokens go, positions already added, right before
            the blocks; its input is `(n, prefix + patches, width)`.
        prefix: class and register tokens, which come first.
        grid: rows and columns of patches at the tower's own picture size.
        patch: side of a patch in pixels.
        pooling: how the picture's row is made: of the class token, of the patches' mean, or
            otherwise (an attention layer, a mean over class tokens too, a maximum).
        norm_before_pooling: the norm between blocks and pooling; None where it comes after.
        has_class_token: whether token 0 is a class token, which gathers what matters.
    """

    tower: Any
    blocks: tuple[nn.Module, ...]
    before_blocks: nn.Module
    prefix: int
    grid: tuple[int, int]
    patch: int
    pooling: Literal["class", "mean", "other"]
    norm_before_pooling: nn.Module | None
    has_class_token: bool

    @property
    def patches(self) -> int:
        """How many patches a picture has."""
        return self.grid[0] * self.grid[1]


def find_vit(module: nn.Module) -> Vit | None:
    """Return a dual encoder's image transformer, or None where it has none of a known kind."""
    tower: Any = getattr(module, "visual", None)
    if isinstance(tower, TimmModel):
        tower = tower.trunk
    if isinstance(tower, OpenClipVit):
        return _open_clip(tower)
    # Not a subclass: those (Eva, distilled DeiT, ...) have a forward of their own.
    if type(tower) is TimmVit and all(type(block) is Block for block in tower.blocks):
        return _timm(tower)
    return None


def _open_clip(tower: Any) -> Vit:
    return Vit(
        tower=tower,
        blocks=tuple(tower.transformer.resblocks),
        before_blocks=tower.ln_pre,
        prefix=1,
        grid=tower.grid_size,
        patch=tower.patch_size[0],
        pooling=_POOLING.get(tower.pool_type, "other") if tower.attn_pool is None else "other",
        norm_before_pooling=None if tower.final_ln_after_pool else tower.ln_post,
        has_class_token=True,
    )


def _timm(tower: Any) -> Vit:
    grid = tower.patch_embed.grid_size
    size = tower.patch_embed.img_size
    other = tower.attn_pool is not None or tower.pool_include_prefix
    return Vit(
        tower=tower,
        blocks=tuple(tower.blocks),
        before_blocks=tower.norm_pre,
        prefix=tower.num_prefix_tokens,
        grid=grid,
        patch=size[0] // grid[0],
        pooling="other" if other else _POOLING.get(tower.global_pool, "other"),
        norm_before_pooling=tower.norm,
        has_class_token=tower.cls_token is not None,
    )


def is_plain(block: nn.Module) -> bool:
    """Whether a block's parts are where `attention_of` and token merging look for them."""
    if isinstance(block, ResidualAttentionBlock):
        return isinstance(block.attn, nn.MultiheadAttention | SplitAttention)
    if isinstance(block, CustomResidualAttentionBlock):
        return isinstance(block.attn, OpenClipAttention) and not block.attn.scaled_cosine
    if not isinstance(block, Block):
        return False
    return type(block.attn) is TimmAttention and block.attn.gate is None


def queries_keys_values(
    attention: Any, rows: Float[Tensor, "n l width"]
) -> tuple[Float[Tensor, "n h l d"], Float[Tensor, "n h l d"], Float[Tensor, "n h l d"]]:
    """Project an attention layer's input as the layer itself does, head by head."""
    if isinstance(attention, SplitAttention):
        parts: Sequence[Tensor] = [attention.q(rows), attention.k(rows), attention.v(rows)]
    elif isinstance(attention, TimmAttention):
        parts = attention.qkv(rows).chunk(3, dim=-1)
    else:
        parts = F.linear(rows, attention.in_proj_weight, attention.in_proj_bias).chunk(3, dim=-1)
    q, k, v = (part.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2) for part in parts)
    norm_q, norm_k = _norms(attention)
    return norm_q(q), norm_k(k), v


def queries_and_keys(
    attention: Any, asking: Float[Tensor, "n m width"], asked: Float[Tensor, "n l width"]
) -> tuple[Float[Tensor, "n h m d"], Float[Tensor, "n h l d"]]:
    """Queries of some rows and keys of others, without the layer's values."""
    if isinstance(attention, SplitAttention):
        q, k = attention.q(asking), attention.k(asked)
    else:
        fused: Any = attention.qkv if isinstance(attention, TimmAttention) else None
        weight: Any = attention.in_proj_weight if fused is None else fused.weight
        bias: Any = attention.in_proj_bias if fused is None else fused.bias
        weights, biases = weight.chunk(3), (None, None) if bias is None else bias.chunk(3)
        q, k = F.linear(asking, weights[0], biases[0]), F.linear(asked, weights[1], biases[1])
    q, k = (part.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2) for part in (q, k))
    norm_q, norm_k = _norms(attention)
    return norm_q(q), norm_k(k)


def _norms(attention: Any) -> tuple[Any, Any]:
    """What an attention layer does to queries and to keys."""
    for names in (("norm_q", "norm_k"), ("q_norm", "k_norm"), ("ln_q", "ln_k")):
        if hasattr(attention, names[0]):
            return getattr(attention, names[0]), getattr(attention, names[1])
    return nn.Identity(), nn.Identity()


def attention_output(attention: Any, rows: Float[Tensor, "n h l d"]) -> Float[Tensor, "n l width"]:
    """What the layer does to its heads' results: join, norm, gate, project."""
    if isinstance(attention, TimmAttention):
        joined = attention.norm(rows.transpose(1, 2).flatten(2))
        return cast(Tensor, attention.proj_drop(attention.proj(joined)))
    scale = getattr(attention, "head_scale", None)
    rows = rows if scale is None else rows * scale
    joined = rows.transpose(1, 2).flatten(2)
    for name in ("norm_inner", "ln_inner"):
        norm: Any = getattr(attention, name, nn.Identity())
        joined = norm(joined)
    return attention.out_proj(joined)


def attention_dropout(attention: Any) -> float:
    """How much of the attention weights the layer drops while it trains."""
    if not attention.training:
        return 0.0
    if isinstance(attention, SplitAttention):
        return 0.0
    drop = getattr(attention, "attn_drop", None)
    return float(attention.dropout if drop is None else drop.p)
