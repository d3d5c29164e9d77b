"""Fused attention taken apart into q, k, v and output Linears, without changing what it computes.

`nn.MultiheadAttention` and open_clip's own `Attention` hold q, k and v as one raw parameter that
no Linear owns: a quantiser passes it by (a third of a block's weights) and then crashes on the
output projection, whose weight they read directly. timm's attention has a qkv Linear and stays.
Left fused, because their mathematics has no place here: `add_zero_attn`, `bias_k`, and
open_clip's scaled-cosine variant. Dropout on attention is left out (no CLIP trains with it).
"""

from typing import Any

import torch
import torch.nn.functional as F
from open_clip.transformer import Attention as OpenClipAttention
from torch import Tensor, nn


class SplitAttention(nn.Module):
    """A drop-in for a fused attention module; same inputs, same outputs, four Linears.

    Args:
        fused: an `nn.MultiheadAttention` or open_clip `Attention` that `can_split` accepts.
    """

    # nn.TransformerEncoderLayer asks these of its attention before it takes a fused shortcut
    # around forward(); None sends it through forward().
    in_proj_bias = None

    def __init__(self, fused: Any) -> None:
        """Take over the weights; the values stay the same tensors where they were separate."""
        super().__init__()
        assert can_split(fused), type(fused)
        # open_clip's Attention is called as f(x) and returns a tensor alone.
        self.returns_pair = isinstance(fused, nn.MultiheadAttention)
        self.batch_first = getattr(fused, "batch_first", True)
        weights, biases = _projections(fused)
        self.num_heads: int = fused.num_heads
        self.q, self.k, self.v = (_linear(w, b) for w, b in zip(weights, biases, strict=True))
        self.out_proj = _linear(fused.out_proj.weight, fused.out_proj.bias)
        self.norm_q = getattr(fused, "ln_q", nn.Identity())
        self.norm_k = getattr(fused, "ln_k", nn.Identity())
        self.norm_inner = getattr(fused, "ln_inner", nn.Identity())
        self.head_scale = getattr(fused, "head_scale", None)
        self.train(fused.training)

    def forward(
        self,
        query: Tensor,
        key: Tensor | None = None,
        value: Tensor | None = None,
        *,
        attn_mask: Tensor | None = None,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = False,
        is_causal: bool = False,
    ) -> Any:
        """Attend. `is_causal` is only ever a hint beside `attn_mask`, as in PyTorch."""
        if need_weights:
            raise ValueError("SplitAttention cannot return attention weights: need_weights=False")
        key = query if key is None else key
        value = key if value is None else value
        if not self.batch_first:
            query, key, value = (x.transpose(0, 1) for x in (query, key, value))
        q = self.norm_q(self._heads(self.q(query)))
        k = self.norm_k(self._heads(self.k(key)))
        v = self._heads(self.v(value))
        mask = None if attn_mask is None else _additive(attn_mask, q, k)
        if key_padding_mask is not None:
            padding = _additive(key_padding_mask[:, None, None, :], q, k)
            mask = padding if mask is None else mask + padding
        rows = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        rows = rows if self.head_scale is None else rows * self.head_scale
        out = self.out_proj(self.norm_inner(rows.transpose(1, 2).flatten(2)))
        out = out if self.batch_first else out.transpose(0, 1)
        return (out, None) if self.returns_pair else out

    def _heads(self, rows: Tensor) -> Tensor:
        return rows.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


def can_split(module: nn.Module) -> bool:
    """Whether `SplitAttention` computes exactly what `module` does."""
    if isinstance(module, nn.MultiheadAttention):
        return module.bias_k is None and module.bias_v is None and not module.add_zero_attn
    return isinstance(module, OpenClipAttention) and not module.scaled_cosine


def split_attention(module: nn.Module) -> int:
    """Replace every fused attention inside `module`, in place; returns how many there were."""
    count = 0
    for owner in list(module.modules()):
        for name, child in list(owner.named_children()):
            if can_split(child):
                setattr(owner, name, SplitAttention(child))
                count += 1
    return count


def _projections(fused: Any) -> tuple[list[Tensor], list[Tensor | None]]:
    if fused.in_proj_weight is None:  # kdim or vdim differ: MultiheadAttention keeps three
        weights = [fused.q_proj_weight, fused.k_proj_weight, fused.v_proj_weight]
    else:
        weights = list(fused.in_proj_weight.chunk(3))
    bias = fused.in_proj_bias
    return weights, [None] * 3 if bias is None else list(bias.chunk(3))


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    out_features, in_features = weight.shape
    linear = nn.Linear(in_features, out_features, bias=bias is not None, device="meta")
    linear.weight = nn.Parameter(weight.detach().clone(), requires_grad=weight.requires_grad)
    if bias is not None:
        linear.bias = nn.Parameter(bias.detach().clone(), requires_grad=bias.requires_grad)
    return linear


def _additive(mask: Tensor, q: Tensor, k: Tensor) -> Tensor:
    """Turn PyTorch's attention masks (True = hidden, or added scores) into added scores."""
    if mask.dtype == torch.bool:
        mask = torch.zeros_like(mask, dtype=q.dtype).masked_fill_(mask, float("-inf"))
    if mask.ndim == 3:  # one per (sample, head), flattened
        mask = mask.reshape(q.shape[0], q.shape[1], q.shape[2], k.shape[2])
    return mask.to(q.dtype)
