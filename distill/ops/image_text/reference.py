"""The image-text loss as its equations (CLIP, SigLIP, TinyCLIP, MobileCLIP). Never optimised.

With S = scale * image @ text.T (+ bias), P the positives' indicator with rows of sum 1, and T_k
the same for teacher k:

    contrastive, softmax   1/2 [ CE(P, softmax(S)) + CE(P, softmax(S.T)) ]     arXiv:2103.00020
    contrastive, sigmoid   -1/N sum_ij log sigmoid(z_ij S_ij)                  arXiv:2303.15343
    affinity, softmax      1/2 [ CE(Q, softmax(S)) + CE(Q', softmax(S.T)) ]    arXiv:2309.12314
        mean_prob          Q = sum_k w_k softmax(T_k), Q' = sum_k w_k softmax(T_k.T)
        mean_logit         Q = softmax(sum_k w_k T_k), Q' = softmax(sum_k w_k T_k.T)
    affinity, sigmoid      -1/N sum_ij [ q log sigmoid(S) + (1 - q) log sigmoid(-S) ],
                           q = sum_k w_k sigmoid(T_k)  (or sigmoid of the mean logit)

CE is over rows, mean over the batch. The column direction takes its own softmax: MobileCLIP's
patch transposes the row softmax when features are gathered, which is another matrix.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from teachers.contract import Embeddings


def logits(embeddings: Embeddings) -> Float[Tensor, "n n"]:
    """Scaled similarities of every image with every text."""
    scaled = embeddings.logit_scale * embeddings.image @ embeddings.text.T
    return scaled if embeddings.logit_bias is None else scaled + embeddings.logit_bias


def cross_entropy(target: Float[Tensor, "n n"], scores: Float[Tensor, "n n"]) -> Float[Tensor, ""]:
    """Mean over rows of the cross-entropy between row-stochastic targets and softmax(scores)."""
    return -(target * F.log_softmax(scores, dim=1)).sum(dim=1).mean()


def positive_targets(
    n: int, positives: Int64[Tensor, " n"] | None, smoothing: float, like: Tensor
) -> Float[Tensor, "n n"]:
    """Row-stochastic targets: equal ids share the weight (UniCL, arXiv:2204.03610)."""
    if positives is None:
        same = torch.eye(n, dtype=like.dtype, device=like.device)
    else:
        same = (positives[:, None] == positives[None, :]).to(like.dtype)
    return (1 - smoothing) * same / same.sum(dim=1, keepdim=True) + smoothing / n


def contrastive(
    student: Embeddings, kind: str, positives: Int64[Tensor, " n"] | None, smoothing: float
) -> Float[Tensor, ""]:
    """The hard loss."""
    scores = logits(student)
    n = scores.shape[0]
    if kind == "sigmoid":
        same = positive_targets(n, positives, 0.0, scores) > 0
        return -F.logsigmoid(torch.where(same, scores, -scores)).sum() / n
    target = positive_targets(n, positives, smoothing, scores)
    return (cross_entropy(target, scores) + cross_entropy(target, scores.T)) / 2


def affinity(
    student: Embeddings,
    teachers: Sequence[Embeddings],
    weights: Float[Tensor, " k"],
    kind: str,
    targets: str,
) -> Float[Tensor, ""]:
    """The distillation loss; teachers carry no gradient."""
    scores = logits(student)
    taught = [logits(teacher).detach() for teacher in teachers]
    if targets == "mean_logit":
        taught, weights = [_mean(taught, weights)], weights.new_ones(1)
    if kind == "sigmoid":
        q = _mean([t.sigmoid() for t in taught], weights)
        pairwise = q * F.logsigmoid(scores) + (1 - q) * F.logsigmoid(-scores)
        return -pairwise.sum() / scores.shape[0]
    rows = _mean([t.softmax(dim=1) for t in taught], weights)
    columns = _mean([t.T.softmax(dim=1) for t in taught], weights)
    return (cross_entropy(rows, scores) + cross_entropy(columns, scores.T)) / 2


def _mean(matrices: Sequence[Tensor], weights: Float[Tensor, " k"]) -> Float[Tensor, "n n"]:
    """Weighted mean over teachers."""
    return torch.einsum("k,kij->ij", weights, torch.stack(list(matrices)))
