"""The image-text loss as its equations, N x N and differentiated by autograd. Never optimised.

With S = scale * image @ text.T + bias, H the hard targets (rows of sum 1, equal ids share a row's
weight), T_k the logits of teacher k, A_k and B_k its similarities within images and within texts,
and rho the rows' weights (sum 1; 1/N each unless `row_weights` says otherwise):

    contrastive, softmax   1/2 [ CE(H, softmax(S)) + CE(H', softmax(S.T)) ]    arXiv:2103.00020
                equal ids  H_ij = [id_i = id_j] / how often id_i occurs        arXiv:2204.03610
              intra_modal  H  <- (1 - mix) H + mix sum_k w_k softmax(A_k),
                           H' <- the same with B_k                             arXiv:2303.17561
                 divisors  1/2 sum_i rho_i sum_j [id_i != id_j] e^(S_ij - p_i - divisor_i)
                           + columns, p_i the mean logit of i's positives      arXiv:2407.01445
    contrastive, sigmoid   - sum_ij rho_ij log sigmoid(z_ij S_ij)              arXiv:2303.15343
    affinity, softmax      1/2 [ CE(Q, softmax(S)) + CE(Q', softmax(S.T)) ]    arXiv:2309.12314
        mean_prob          Q = sum_k w_k softmax(T_k), Q' = sum_k w_k softmax(T_k.T)
        mean_logit         Q = softmax(sum_k w_k T_k), Q' = softmax(sum_k w_k T_k.T)
    affinity, sigmoid      - sum_ij rho_ij [ q log sigmoid(S) + (1 - q) log sigmoid(-S) ],
                           q = sum_k w_k sigmoid(T_k)  (or sigmoid of the mean logit)

CE(P, softmax(S)) = - sum_i rho_i sum_j P_ij log softmax(S)_ij; rho_ij = (rho_i + rho_j) / 2. The
column direction takes its own softmax: MobileCLIP's patch transposes the row softmax when features
are gathered, which is another matrix. SoftCLIP's relaxed negatives-only term is left out.
"""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from distill.ops.image_text.problem import Problem, Source


def terms(problem: Problem) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Contrastive and affinity of a whole batch; gradients by autograd."""
    scores = logits(problem.image, problem.text, problem.logit_scale, problem.logit_bias, problem)
    if problem.kind == "sigmoid":
        return _sigmoid(problem, scores)
    shares = problem.row_share, problem.column_share
    if problem.row_divisor is not None and problem.column_divisor is not None:
        rows = _diverged(problem, scores, problem.row_divisor)
        columns = _diverged(problem, scores.T, problem.column_divisor)
        contrastive = (shares[0] @ rows + shares[1] @ columns) / 2
    else:
        row_target = _hard(problem) + _soft(problem, by_row=True, contrastive=True)
        column_target = _hard(problem) + _soft(problem, by_row=False, contrastive=True)
        contrastive = _both(problem, scores, row_target, column_target)
    if not problem.has_affinity:
        return contrastive, contrastive.new_zeros(())
    row_target = _soft(problem, by_row=True, contrastive=False)
    column_target = _soft(problem, by_row=False, contrastive=False)
    return contrastive, _both(problem, scores, row_target, column_target)


def logits(
    left: Float[Tensor, "n d"],
    right: Float[Tensor, "n d"],
    scale: Float[Tensor, ""],
    bias: Float[Tensor, ""],
    problem: Problem,
) -> Float[Tensor, "n n"]:
    """Scaled similarities of every left row with every right row, at least in float32."""
    left, right = left.to(problem.dtype), right.to(problem.dtype)
    return scale * left @ right.T + bias


def cross_entropy(
    target: Float[Tensor, "n n"], scores: Float[Tensor, "n n"], share: Float[Tensor, " n"]
) -> Float[Tensor, ""]:
    """Cross-entropy between row-stochastic targets and softmax(scores), rows weighted."""
    return share @ -(target * F.log_softmax(scores, dim=1)).sum(dim=1)


def _both(problem: Problem, scores: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Mean of both directions; `columns` is laid out as `scores.T`."""
    return (
        cross_entropy(rows, scores, problem.row_share)
        + cross_entropy(columns, scores.T, problem.column_share)
    ) / 2


def _same(problem: Problem) -> Float[Tensor, "n n"]:
    whole = slice(0, problem.image.shape[0])
    return problem.same(whole, whole).to(problem.dtype)


def _hard(problem: Problem) -> Float[Tensor, "n n"]:
    """Hard targets with smoothing; symmetric, since positives of each other count alike."""
    same, smoothing = _same(problem), problem.label_smoothing
    spread = (1 - smoothing) * same / same.sum(dim=1, keepdim=True) + smoothing / problem.batch
    return (1 - problem.mix) * spread


def _source_logits(source: Source, problem: Problem) -> Float[Tensor, "n n"]:
    return logits(source.left, source.right, source.scale, source.bias, problem).detach()


def _soft(problem: Problem, by_row: bool, contrastive: bool) -> Float[Tensor, "n n"]:
    """Weighted sum of the sources' softmaxes, one direction of one term."""
    total = problem.image.new_zeros((), dtype=problem.dtype).expand(problem.batch, problem.batch)
    for source in problem.sources:
        if source.contrastive == contrastive:
            taught = _source_logits(source, problem)
            weight = source.row_weight if by_row else source.column_weight
            total = total + weight * (taught if by_row else taught.T).softmax(dim=1)
    return total


def _diverged(problem: Problem, scores: Tensor, divisor: Tensor) -> Float[Tensor, " n"]:
    """Row sums over the negatives of e^(S - mean positive - divisor)."""
    same = _same(problem)
    positive = (same * scores).sum(dim=1) / same.sum(dim=1)
    shifted = scores - positive[:, None] - divisor[:, None]
    return shifted.masked_fill(same > 0, -float("inf")).exp().sum(dim=1)


def _sigmoid(problem: Problem, scores: Tensor) -> tuple[Tensor, Tensor]:
    """Both terms of the pairwise loss."""
    pair = (problem.row_share[:, None] + problem.column_share[None, :]) / 2
    signed = scores * (2 * _same(problem) - 1)
    contrastive = -(pair * F.logsigmoid(signed)).sum()
    if not problem.sources:
        return contrastive, contrastive.new_zeros(())
    q = sum(s.row_weight * _source_logits(s, problem).sigmoid() for s in problem.sources)
    pairwise = q * F.logsigmoid(scores) + (1 - q) * F.logsigmoid(-scores)
    return contrastive, -(pair * pairwise).sum()
