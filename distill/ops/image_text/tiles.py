"""What happens to one tile of logits: its statistics, and its gradient. Plain tensors in and out.

One exponential serves rows and columns alike: both take it against the tile's largest logit, and
a row's share of it is a factor. That underflows for a row whose logits all lie far below the
tile's largest (a low-cosine positive at scale 100), so each use is guarded. On the CPU the guard
picks the exact way, two exponentials with a shift by row and by column. On other devices reading
the guard would synchronise, so the exact way is the only way there.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

# float32 holds sums down to 1e-38; what a smaller term loses is then below 1e-13 of the sum.
SMALLEST_SUM = 1e-25
LARGEST_EXPONENT = 60.0


class TileSums(NamedTuple):
    """Log-sum-exp of a tile by row and column, and the means of the scores under the softmax."""

    row_lse: Float[Tensor, " b"]
    column_lse: Float[Tensor, " c"]
    row_dot: Float[Tensor, " b"] | None
    column_dot: Float[Tensor, " c"] | None


def tile_sums(logits: Float[Tensor, "b c"], scores: Float[Tensor, "b c"] | None) -> TileSums:
    """Sum exponentials in both directions; with `scores`, also take their expectations."""
    if logits.device.type == "cpu":
        peak = logits.amax()
        e = (logits - peak).exp_()
        rows, columns = e.sum(dim=1), e.sum(dim=0)
        if min(rows.amin(), columns.amin()) > SMALLEST_SUM:
            lse = rows.log() + peak, columns.log() + peak
            if scores is None:
                return TileSums(*lse, None, None)
            weighted = e.mul_(scores)
            return TileSums(*lse, weighted.sum(dim=1) / rows, weighted.sum(dim=0) / columns)
    lse = logits.logsumexp(dim=1), logits.logsumexp(dim=0)
    if scores is None:
        return TileSums(*lse, None, None)
    row_dot = ((logits - lse[0][:, None]).exp() * scores).sum(dim=1)
    column_dot = ((logits - lse[1][None, :]).exp() * scores).sum(dim=0)
    return TileSums(*lse, row_dot, column_dot)


def mixture(
    logits: Float[Tensor, "b c"],
    rows: tuple[Float[Tensor, " b"], Float[Tensor, " b"]],
    columns: tuple[Float[Tensor, " c"], Float[Tensor, " c"]],
    *,
    bounded: bool = False,
) -> Float[Tensor, "b c"]:
    """Compute a_i e^(L_ij - r_i) + b_j e^(L_ij - c_j); `rows` is (a, r), `columns` (b, c).

    `bounded`: no L_ij is above r_i, as when r_i is a log-sum-exp; that saves a pass.
    """
    if logits.device.type == "cpu":
        peak = rows[1].amax() if bounded else logits.amax()
        gaps = peak - rows[1], peak - columns[1]
        if max(gaps[0].amax(), gaps[1].amax()) < LARGEST_EXPONENT:
            factor = torch.add(
                (rows[0] * gaps[0].exp())[:, None], (columns[0] * gaps[1].exp())[None, :]
            )
            return (logits - peak).exp_().mul_(factor)
    by_row = (logits - rows[1][:, None]).exp_().mul_(rows[0][:, None])
    return by_row.add_((logits - columns[1][None, :]).exp_().mul_(columns[0][None, :]))


def sigmoid_values(
    scores: Float[Tensor, "b c"],
    same: Bool[Tensor, "b c"] | None,
    mean_target: Float[Tensor, "b c"] | None,
    pair: Float[Tensor, "b c"],
) -> Float[Tensor, " 2"]:
    """Weighted sums of the pairwise cross-entropies: against positives, against the target."""
    signed = scores if same is None else torch.where(same, -scores, scores)
    contrastive = -(F.logsigmoid(-signed) * pair).sum()
    if mean_target is None:
        return torch.stack([contrastive, torch.zeros_like(contrastive)])
    # softplus(S) - q S without its cancellation at large S.
    excess = ((scores > 0).to(scores) - mean_target) * scores - F.logsigmoid(scores.abs())
    return torch.stack([contrastive, (excess * pair).sum()])


def sigmoid_gradient(
    scores: Float[Tensor, "b c"],
    same: Bool[Tensor, "b c"] | None,
    mean_target: Float[Tensor, "b c"] | None,
    pair: Float[Tensor, "b c"],
    weights: tuple[Tensor, Tensor],
) -> Float[Tensor, "b c"]:
    """d/dS of `sigmoid_values`, its two sums weighted by `weights`."""
    probability = scores.sigmoid()
    # sigma(S) - 1 as -sigma(-S): the difference would round to 0.
    hard = probability if same is None else torch.where(same, -(-scores).sigmoid(), probability)
    gradient = hard * weights[0]
    if mean_target is not None:
        gradient.add_((probability - mean_target) * weights[1])
    return gradient.mul_(pair)
