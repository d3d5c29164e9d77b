"""Which patches a transformer looks at, recorded while it embeds pictures.

The class token's attention to each patch, averaged over heads; of a tower without class token, what
a patch gets from all patches on average. A-CLIP (arXiv:2212.08653) averages over all blocks, the
last block alone is what DINO (arXiv:2104.14294) draws. Only queries and keys are computed again;
the tower's own attention stays fused.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from teachers.vision_transformers import Vit, find_vit, is_plain, queries_and_keys


class PatchAttention:
    """Records the attention of some of a tower's blocks; `take` hands it out.

    Args:
        vit: the tower.
        blocks: which of its blocks; None takes all.
    """

    def __init__(self, vit: Vit, blocks: Sequence[int] | None = None) -> None:
        """Listen to the attention layers."""
        self._vit = vit
        self._summed: Tensor | None = None
        numbers = range(len(vit.blocks)) if blocks is None else blocks
        self._count = len(numbers)
        self._hooks = [
            vit.blocks[n].attn.register_forward_pre_hook(functools.partial(self._record))
            for n in numbers
        ]

    def take(self) -> Float[Tensor, "n rows columns"]:
        """The pictures' attention of the forward pass since the last call, in float32."""
        assert self._summed is not None, "no picture was embedded"
        summed, self._summed = self._summed / self._count, None
        rows, columns = self._vit.grid
        if summed.shape[1] != rows * columns:  # a picture of another size, square as ours are
            rows = columns = math.isqrt(summed.shape[1])
        return summed.unflatten(1, (rows, columns))

    def detach(self) -> None:
        """Stop listening."""
        for hook in self._hooks:
            hook.remove()

    @torch.no_grad()
    def _record(self, attention: nn.Module, given: tuple[Any, ...]) -> None:
        rows, prefix = given[0], self._vit.prefix
        asking = rows[:, :1] if self._vit.has_class_token else rows[:, prefix:]
        q, k = queries_and_keys(attention, asking, rows)
        scores = (q @ k.transpose(-2, -1)).float() * q.shape[-1] ** -0.5
        found = scores.softmax(dim=-1).mean(dim=(1, 2))[:, prefix:]
        self._summed = found if self._summed is None else self._summed + found


def attention_tower(module: nn.Module, name: str) -> Vit:
    """Return the tower of a model whose attention can be recorded.

    Raises:
        ValueError: it is no transformer of a known kind.
    """
    vit = find_vit(module)
    if vit is None or not all(is_plain(block) for block in vit.blocks):
        tower = type(getattr(module, "visual", module)).__name__
        raise ValueError(
            f"{name}: the attention of its image tower ({tower}) cannot be read; open_clip's and "
            "timm's VisionTransformer can be"
        )
    return vit
