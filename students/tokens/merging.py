"""Token merging: alike patches become one, between a block's attention and its MLP.

Written from the paper, Bolya et al., "Token Merging: Your ViT But Faster" (arXiv:2210.09461,
sections 3 and 4), not from its code. Patches are dealt into two hands in turns; every patch of the
first hand looks for the most similar one of the second, by the cosine of their keys (their mean
over heads); the r best of these pairs become one token each, the mean of all patches in it.
Attention is proportional: a token of s patches is attended to like s equal tokens (log s is added
to its scores). Class and register tokens are never merged. Sums are matrix products, not scatters:
the same bits every time, and operations that exporters know. Left out: what the paper's pictures
and videos need, such as where a token came from.
"""

import functools
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from teachers.vision_transformers import (
    Vit,
    attention_dropout,
    attention_output,
    queries_keys_values,
)


def merge_tokens(
    rows: Float[Tensor, "n l width"],
    sizes: Float[Tensor, "n l"],
    keys: Float[Tensor, "n l d"],
    merged: int,
    prefix: int,
) -> tuple[Float[Tensor, "n fewer width"], Float[Tensor, "n fewer"]]:
    """Take away `merged` tokens by merging pairs of alike ones; returns rows and sizes.

    Args:
        rows: tokens, of which the first `prefix` stay as they are.
        sizes: how many patches each stands for.
        keys: what similarity is measured on.
        merged: pairs to merge, at most half of the patches, rounded down.
        prefix: class and register tokens.
    """
    if merged == 0:
        return rows, sizes
    assert merged <= (rows.shape[1] - prefix) // 2, (merged, rows.shape)
    source, target = _best_pairs(keys[:, prefix:], merged)
    first, second = rows[:, prefix::2], rows[:, prefix + 1 :: 2]
    first_sizes, second_sizes = sizes[:, prefix::2], sizes[:, prefix + 1 :: 2]
    gone, stay = source[:, :merged], source[:, merged:].sort(dim=-1).values
    targets = target.gather(1, gone)
    places = torch.arange(second.shape[1], device=rows.device)
    belongs = (targets[:, None, :] == places[:, None]).to(rows.dtype)  # n x second x merged
    gone_sizes = first_sizes.gather(1, gone)
    weighed = _rows_at(first, gone) * gone_sizes[..., None]
    total = second_sizes + (belongs @ gone_sizes[..., None])[..., 0]
    summed = second * second_sizes[..., None] + belongs @ weighed
    kept_rows, kept_sizes = _rows_at(first, stay), first_sizes.gather(1, stay)
    return (
        torch.cat([rows[:, :prefix], kept_rows, summed / total[..., None]], dim=1),
        torch.cat([sizes[:, :prefix], kept_sizes, total], dim=1),
    )


def _best_pairs(
    keys: Float[Tensor, "n p d"], merged: int
) -> tuple[Int64[Tensor, "n first"], Int64[Tensor, "n first"]]:
    """The first hand's places, those to merge in front, and each one's partner in the second."""
    unit = F.normalize(keys.detach().float(), dim=-1)
    similarity = unit[:, ::2] @ unit[:, 1::2].transpose(1, 2)
    best, target = similarity.max(dim=-1)
    # Not argsort: exporters know topk.
    return best.topk(best.shape[-1], dim=-1).indices, target


def _rows_at(
    rows: Float[Tensor, "n l width"], places: Int64[Tensor, "n m"]
) -> Float[Tensor, "n m width"]:
    return rows.gather(1, places[..., None].expand(-1, -1, rows.shape[-1]))


def per_block(patches: int, blocks: int, keep: float) -> list[int]:
    """How many tokens each block merges so that `keep` of the patches are left after the last.

    The same number in every block, as in the paper, the remainder in the first ones; no block can
    merge more than half of what it has.
    """
    gone, left = patches - max(1, round(patches * keep)), patches
    plan = []
    for block in range(blocks):
        share = -(-gone // (blocks - block))
        plan.append(min(share, left // 2))
        left, gone = left - plan[-1], gone - plan[-1]
    return plan


def tokens_per_block(patches: int, plan: list[int]) -> list[float]:
    """Patches that each block computes, counted between its attention and its MLP."""
    counts, left = [], patches
    for merged in plan:
        counts.append(left - merged / 2)
        left -= merged
    return counts


class Merging:
    """A tower's blocks made to merge while `plan` is set; one that is not set changes nothing.

    Sizes are kept by block: a block that is recomputed for the backward pass (activation
    checkpointing) finds those it had.
    """

    def __init__(self, vit: Vit) -> None:
        """Take over each block's forward."""
        self.plan: list[int] | None = None
        self._sizes: list[Tensor | None] = [None] * (len(vit.blocks) + 1)
        self._prefix, self._blocks = vit.prefix, vit.blocks
        for number, block in enumerate(vit.blocks):
            block.forward = functools.partial(self._block, block, number)
        self._weigh = vit.pooling == "mean"
        norm = vit.norm_before_pooling
        self._hook = norm.register_forward_hook(self._after_norm) if norm is not None else None
        self._at_norm = norm is not None  # a block that is compiled must not look at a handle

    def detach(self) -> None:
        """Give the blocks their own forward back."""
        if self._hook is not None:
            self._hook.remove()
        for block in self._blocks:
            block.__dict__.pop("forward", None)

    def _block(self, block: Any, number: int, rows: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        plan = self.plan
        if plan is None:
            return type(block).forward(block, rows, *args, **kwargs)
        sizes = self._sizes[number] if number else None
        if sizes is None:
            sizes = rows.new_ones(rows.shape[:2])
        out, after = merged_block(block, rows, sizes, plan[number], self._prefix)
        self._sizes[number + 1] = after
        last = number == len(plan) - 1
        return out if self._at_norm or not last else self._weighed(out)

    def _after_norm(self, norm: nn.Module, given: Any, rows: Tensor) -> Tensor:
        return rows if self.plan is None else self._weighed(rows)

    def _weighed(self, rows: Tensor) -> Tensor:
        sizes = self._sizes[-1]
        assert sizes is not None
        return weighed(rows, sizes, self._prefix) if self._weigh else rows


def merged_block(
    block: Any,
    rows: Float[Tensor, "n l width"],
    sizes: Float[Tensor, "n l"],
    merged: int,
    prefix: int,
) -> tuple[Float[Tensor, "n fewer width"], Float[Tensor, "n fewer"]]:
    """One block of open_clip's or timm's, with proportional attention and merging in it."""
    timm = hasattr(block, "norm1")
    attention = block.attn
    q, k, v = queries_keys_values(attention, (block.norm1 if timm else block.ln_1)(rows))
    mixed = F.scaled_dot_product_attention(
        q,
        k,
        v,
        attn_mask=sizes.log()[:, None, None, :].to(q.dtype),
        dropout_p=attention_dropout(attention),
    )
    attended = attention_output(attention, mixed)
    if timm:
        rows = rows + block.drop_path1(block.ls1(attended))
        rows, sizes = merge_tokens(rows, sizes, k.mean(1), merged, prefix)
        return rows + block.drop_path2(block.ls2(block.mlp(block.norm2(rows)))), sizes
    attended = block.ln_attn(attended) if hasattr(block, "ln_attn") else attended
    rows = rows + block.ls_1(attended)
    rows, sizes = merge_tokens(rows, sizes, k.mean(1), merged, prefix)
    return rows + block.ls_2(block.mlp(block.ln_2(rows))), sizes


def weighed(
    rows: Float[Tensor, "n l width"], sizes: Float[Tensor, "n l"], prefix: int
) -> Float[Tensor, "n l width"]:
    """Patches times their share, so that their plain mean is the mean over all patches."""
    weights = sizes[:, prefix:] / sizes[:, prefix:].mean(dim=1, keepdim=True)
    return torch.cat([rows[:, :prefix], rows[:, prefix:] * weights[..., None]], dim=1)
