"""Drawing tokens: temperature and nucleus (Holtzman et al., 2020), with numbers of each text's own.

A text's random numbers are a function of (request's seed, number of the text); its token t uses the
t-th. So a text depends on its own sample alone: not on the batch, its order, the device's random
numbers or how many texts are asked for. What remains of the batch is rounding: a token changes only
where its number lies within rounding of the border between two tokens.

Beam search is left out: captions are wanted for their variety, and sampled ones train better
students (MobileCLIP samples with top-p 0.9).
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

# A nucleus is nearly always within the likeliest 512 tokens; sorting all of them is the fallback.
_LIKELIEST = 512


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the next token is chosen.

    Attributes:
        temperature: divides the logits; 0 takes the likeliest token, and gives one text a sample.
        top_p: the least set of likeliest tokens with this probability is drawn from; 1 is all.
        max_tokens: of a text, at most.
        min_tokens: the end is not drawn before.
    """

    temperature: float = 1.0
    top_p: float = 0.9
    max_tokens: int = 64
    min_tokens: int = 1

    def __post_init__(self) -> None:
        """Refuse what has no meaning."""
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature must be 0 or more, got {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be above 0 and at most 1, got {self.top_p}")
        if not 0 <= self.min_tokens <= self.max_tokens or self.max_tokens < 1:
            raise ValueError(
                "max_tokens must be at least 1 and at least min_tokens, got max_tokens "
                f"{self.max_tokens} and min_tokens {self.min_tokens}"
            )

    def distinct(self, num_texts: int) -> int:
        """Return how many texts are worth asking for: the likeliest one is always the same."""
        return 1 if self.temperature == 0 else num_texts


def uniform_numbers(seed: int, text: int, count: int) -> Float64[np.ndarray, " count"]:
    """Return the numbers in [0, 1) that text number `text` of a sample is drawn with."""
    return np.random.default_rng((seed, text)).random(count)


def draw_tokens(
    logits: Float[Tensor, "n vocab"], uniforms: Float64[np.ndarray, " n"], sampling: Sampling
) -> Int64[Tensor, " n"]:
    """Choose one token a row, by inverting the nucleus's distribution function.

    Args:
        logits: of the next token; -inf for what must not come.
        uniforms: one number in [0, 1) a row.
        sampling: temperature and top_p.

    Raises:
        ValueError: logits that are NaN or all -inf.
    """
    _check_finite(logits)
    if sampling.temperature == 0:
        return logits.argmax(dim=-1)
    scores = logits.float() / sampling.temperature
    total = scores.double().logsumexp(dim=-1, keepdim=True)
    vocab = scores.shape[-1]
    for size in (min(_LIKELIEST, vocab), vocab):
        top = scores.topk(size, dim=-1)
        shares = (top.values.double() - total).exp()
        reached = shares.cumsum(dim=-1)
        if size == vocab or bool((reached[:, -1] >= sampling.top_p).all()):
            break
    # A token is kept while what is before it holds less than top_p; the first always is.
    last = ((reached - shares) < sampling.top_p).sum(dim=-1, keepdim=True) - 1
    level = torch.from_numpy(uniforms).to(reached.device)[:, None] * reached.gather(1, last)
    position = (reached <= level).sum(dim=-1, keepdim=True).minimum(last)
    return top.indices.gather(1, position)[:, 0]


def _check_finite(logits: Tensor) -> None:
    peaks = logits.amax(dim=-1)
    if not bool(peaks.isfinite().all()):
        raise ValueError(
            "the model's logits are NaN or infinite, so no token can be drawn: load it in another "
            "precision (fp32), or check its weights"
        )
