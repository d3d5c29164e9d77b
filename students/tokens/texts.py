"""Which tokens of a text stay: first, any, neighbours, rare ones; and how long a batch has to be.

For CLIP's rows of ids: start, words, the end token with the largest id (where the tower pools),
padding 0. Start and end always stay, order does too. Draws are hashes of the samples' seeds, made
where the tokens are (students/tokens/choosing.py). Truncating, random and block masking are CLIPA's
(arXiv:2305.07017); masking by frequency follows CLIPF (arXiv:2412.16148): a token of frequency f
has the weight 1 / sqrt(f), and tokens are drawn without replacement, by those weights, until the
text is full. CLIPF counts words, here tokens are counted, of which a rare word has several.
"""

from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from students.tokens.choosing import hashed, uniform

_STREAM = 2  # pictures draw from 0 and 1


def shortened(
    tokens: Int64[Tensor, "n context"],
    how: str,
    length: int,
    seeds: Int64[Tensor, " n"],
    weights: Float[Tensor, " vocabulary"] | None = None,
) -> Int64[Tensor, "n fewer"]:
    """Return texts of at most `length` tokens; a text that fits stays as it is.

    Args:
        tokens: ids as described above.
        how: truncate, random, block or frequency (which needs `weights`).
        length: of the rows returned; start and end included.
        seeds: of each text.
        weights: of each id; see `token_weights`.
    """
    context = tokens.shape[1]
    if length >= context:
        return tokens
    ends = tokens.argmax(dim=-1, keepdim=True)
    words, room = (ends - 1).clamp_min(0), length - 2
    places = torch.arange(context, device=tokens.device).expand_as(tokens)
    is_word = (places >= 1) & (places < ends)
    wanted = _preference(tokens, how, seeds, words - room, weights)
    wanted = wanted.masked_fill(~is_word, float("-inf"))
    best = wanted.argsort(dim=-1, descending=True, stable=True)[:, :room]
    # What is no word comes last, as padding.
    chosen = best.masked_fill(~is_word.gather(1, best), context).sort(dim=-1).values
    padded = torch.cat([tokens, tokens.new_zeros(len(tokens), 1)], dim=1)
    out = torch.cat(
        [tokens[:, :1], padded.gather(1, chosen), tokens.new_zeros(len(tokens), 1)], dim=1
    )
    return out.scatter(1, 1 + words.clamp_max(room), tokens.gather(1, ends))


def _preference(
    tokens: Tensor, how: str, seeds: Tensor, too_many: Tensor, weights: Tensor | None
) -> Float[Tensor, "n context"]:
    """How much each place is wanted; the highest stay."""
    context = tokens.shape[1]
    places = torch.arange(context, device=tokens.device, dtype=torch.float64).expand_as(tokens)
    if how == "truncate":
        return -places
    if how == "block":
        draw = hashed(seeds, 1, _STREAM)
        first = 1 + draw % (too_many.clamp_min(0) + 1)
        return torch.where(places >= first, -places, -places - context)
    draws = uniform(seeds, context, _STREAM)
    if how == "random":
        return draws
    assert how == "frequency" and weights is not None, how
    # Gumbel's trick: the highest of log(weight) + noise are a draw by weight.
    return weights.double().log()[tokens] - (-draws.clamp_min(2.0**-54).log()).log()


def token_weights(rows: Iterable[Int64[Tensor, "n context"]], vocabulary: int) -> Tensor:
    """Weigh ids by 1 / sqrt(how often they come); one that never came counts as once."""
    counts = torch.zeros(vocabulary, dtype=torch.float64)
    for tokens in rows:
        counts += torch.bincount(tokens.flatten(), minlength=vocabulary)
    return counts.clamp_min(1).rsqrt()


def longest(rows: Sequence[Int64[Tensor, "n context"]]) -> int:
    """How many tokens the longest of some texts has, its end token included; on the CPU."""
    return max(int(tokens.argmax(dim=-1).max()) + 1 for tokens in rows)
