"""The hard-concrete gate (Louizos et al., arXiv:1712.01312): a number that is often exactly 0 or 1.

A gate is drawn from a learned log-odds `alpha`: a binary concrete variable, stretched to
(-0.1, 1.1) and cut to [0, 1]. What is differentiable: the drawn value, and the probability that it
is not 0, whose sum is the expected number of units left. Constants as in CoFi and TinyCLIP.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

TEMPERATURE = 2 / 3
LOW, HIGH = -0.1, 1.1
# Nearly all gates are open (99 %) and none is so sure that a gradient no longer moves it.
START = 3.0
# Beyond these log-odds a gate no longer learns (TinyCLIP clamps there too).
BOUND = math.log(100)
_EDGE = 1e-6


def draw(alpha: Float[Tensor, " n"], uniform: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Gates for one step from uniform noise in [0, 1)."""
    noise = uniform.clamp(_EDGE, 1 - _EDGE)
    concrete = torch.sigmoid((noise.log() - (-noise).log1p() + alpha) / TEMPERATURE)
    return (concrete * (HIGH - LOW) + LOW).clamp(0, 1)


def settled(alpha: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Gates without noise: what a kept unit is multiplied by in the end."""
    return (alpha.sigmoid() * (HIGH - LOW) + LOW).clamp(0, 1)


def chance(alpha: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Probability that a gate is not 0."""
    return torch.sigmoid(alpha - TEMPERATURE * math.log(-LOW / HIGH))
