"""CoCa's next token, without computing anything twice.

open_clip runs the whole prefix through both text towers for every token, and once more for every
caption of a picture. Here keys and values are kept: those of the picture are computed once for all
its captions, those of a token once. The logits are open_clip's own up to rounding
(tests/parity/test_captioners_coca.py).
"""

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from open_clip.transformer import ResidualAttentionBlock, TextTransformer
from torch import Tensor

from teachers.split_attention import SplitAttention

KeysValues = tuple[Tensor, Tensor]


@dataclass(kw_only=True)
class Writing:
    """Texts under way: `each` of them for each of `n` pictures, all of the same length.

    Attributes:
        each: texts per picture.
        pictures: per decoder layer, keys and values `(n, heads, image tokens, head width)`.
        past: per layer of both towers, those of the tokens so far, `(n * each, heads, t, width)`.
        length: tokens so far.
    """

    each: int
    pictures: list[KeysValues]
    past: dict[int, KeysValues] = field(default_factory=dict)
    length: int = 0


class CocaDecoder:
    """The text half of an open_clip CoCa, one token at a time.

    Args:
        module: the CoCa; not changed. Attention weights of its text towers are copied.

    Raises:
        ValueError: a text tower that is not open_clip's causal one.
    """

    def __init__(self, module: Any) -> None:
        """Take the attention of every block apart."""
        text, decoder = module.text, module.text_decoder
        blocks = [
            *getattr(getattr(text, "transformer", None), "resblocks", ()),
            *decoder.resblocks,
            *decoder.cross_attn,
        ]
        plain = all(isinstance(block, ResidualAttentionBlock) for block in blocks)
        causal = isinstance(text, TextTransformer) and text.attn_mask is not None
        if not (plain and causal):
            raise ValueError(
                f"a CoCa with a text tower of type {type(text).__name__} is not supported: it has "
                "to be open_clip's TextTransformer with plain blocks and a causal mask"
            )
        self._module = module
        self._embedder = [(block, _split(block)) for block in text.transformer.resblocks]
        self._decoder = [(block, _split(block)) for block in decoder.resblocks]
        self._cross = [(block, _split(block)) for block in decoder.cross_attn]

    def begin(self, pixels: Float[Tensor, "n 3 h w"], each: int) -> Writing:
        """Look at `n` pictures, for `each` texts of everyone."""
        _, tokens = self._module.visual(pixels)
        pictures = []
        for block, attention in self._cross:
            rows = block.ln_1_kv(tokens)
            pictures.append((_heads(attention, attention.k(rows)), _values(attention, rows)))
        return Writing(each=each, pictures=pictures)

    def step(self, writing: Writing, tokens: Int64[Tensor, " rows"]) -> Float[Tensor, "rows vocab"]:
        """Append one token to every text and return the logits of the next.

        Args:
            writing: from `begin`; goes on by one token.
            tokens: of text i of picture p in row `p * each + i`; the first are start tokens.
        """
        text, decoder = self._module.text, self._module.text_decoder
        x = text.token_embedding(tokens)[:, None].to(text.transformer.get_cast_dtype())
        x = x + text.positional_embedding[writing.length].to(x.dtype)
        for layer, (block, attention) in enumerate(self._embedder):
            x = _attend_past(block, attention, x, writing, layer)
        if text.cls_emb is None:
            x = text.ln_final(x)
        for layer, (block, attention) in enumerate(self._decoder):
            x = _attend_past(block, attention, x, writing, len(self._embedder) + layer)
            crossing, its_attention = self._cross[layer]
            x = _attend_pictures(crossing, its_attention, x, writing, layer)
        writing.length += 1
        return decoder.ln_final(x[:, 0]) @ decoder.text_projection


def _attend_past(
    block: Any, attention: SplitAttention, x: Tensor, writing: Writing, layer: int
) -> Tensor:
    rows = block.ln_1(x)
    keys, values = _heads(attention, attention.k(rows)), _values(attention, rows)
    if layer in writing.past:
        before = writing.past[layer]
        keys, values = torch.cat([before[0], keys], 2), torch.cat([before[1], values], 2)
    writing.past[layer] = keys, values
    found = F.scaled_dot_product_attention(_heads(attention, attention.q(rows)), keys, values)
    return _after(block, attention, x, found.transpose(1, 2).flatten(2))


def _attend_pictures(
    block: Any, attention: SplitAttention, x: Tensor, writing: Writing, layer: int
) -> Tensor:
    # The texts of one picture are its queries, so its keys need no copy for each of them.
    queries = attention.q(block.ln_1(x)).unflatten(0, (-1, writing.each))[:, :, 0]
    keys, values = writing.pictures[layer]
    found = F.scaled_dot_product_attention(_heads(attention, queries), keys, values)
    return _after(block, attention, x, found.transpose(1, 2).flatten(2).flatten(0, 1)[:, None])


def _after(block: Any, attention: SplitAttention, x: Tensor, found: Tensor) -> Tensor:
    x = x + block.ls_1(attention.out_proj(found))
    return x + block.ls_2(block.mlp(block.ln_2(x)))


def _split(block: Any) -> SplitAttention:
    taken_apart = isinstance(block.attn, SplitAttention)  # as quantised teachers have it
    return block.attn if taken_apart else SplitAttention(block.attn)


def _heads(attention: SplitAttention, rows: Tensor) -> Tensor:
    return rows.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)


def _values(attention: SplitAttention, rows: Tensor) -> Tensor:
    return _heads(attention, attention.v(rows))
