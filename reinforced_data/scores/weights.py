"""What a stored score makes a sample count in a step's loss.

Scores are columns (`add_scores`); a weight is made of them when a batch is read, so another rule
needs no other store. Weighting is a soft form of selection: DataComp's and DFN's filters keep or
drop a pair once, before training, by a threshold.
"""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float, Float64

ScoreWeightsKind = Literal["linear", "softmax", "threshold"]


@dataclass(frozen=True, kw_only=True)
class ScoreWeights:
    """How samples are weighed; samples without a score take no part in training.

    Attributes:
        score: a score's name in the store; None weighs all samples alike.
        kind: linear: the score itself, 0 where it is negative. softmax: exp(score / temperature).
            threshold: 1 from `threshold` on, else 0.
        temperature: of softmax, in units of the score; the smaller, the fewer samples count.
        threshold: of threshold.
    """

    score: str | None = None
    kind: ScoreWeightsKind = "linear"
    temperature: float = 1.0
    threshold: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what is no rule."""
        known = get_args(ScoreWeightsKind)
        if self.kind not in known:
            raise ValueError(f"score_weights.kind must be one of {known}, got {self.kind!r}")
        if not 0 < self.temperature < math.inf:
            raise ValueError(
                f"score_weights.temperature must be positive and finite, got {self.temperature}"
            )
        if not math.isfinite(self.threshold):
            raise ValueError(f"score_weights.threshold must be finite, got {self.threshold}")

    def of(self, scores: Float[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
        """Weigh the samples of a whole batch; the weights have the mean 1.

        Raises:
            ValueError: nothing of the batch has a weight.
        """
        values = scores.astype(np.float64)
        if self.kind == "linear":
            weights = np.maximum(values, 0.0)
        elif self.kind == "threshold":
            weights = (values >= self.threshold).astype(np.float64)
        else:
            # The largest exponent is 0: a weight's scale says nothing, only ratios do.
            weights = np.exp((values - values.max()) / self.temperature)
        if not weights.any():
            raise ValueError(
                f"no sample of a batch of {len(values)} has a weight: their scores "
                f"{self.score!r} are {values.min():.4g} to {values.max():.4g}, and "
                f"{self._nothing()}. Choose another rule (score_weights.kind), or select samples "
                "in the source, before packing"
            )
        return weights / weights.mean()

    def _nothing(self) -> str:
        if self.kind == "threshold":
            return f"below score_weights.threshold={self.threshold:g} a sample weighs nothing"
        return "a score that is not positive weighs nothing with score_weights.kind='linear'"
