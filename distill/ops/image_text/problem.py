"""What every implementation of the image-text loss computes: one problem, two sweeps.

A `Problem` is a call after its arguments were checked: a rectangle of the whole batch, n images
against m texts. In one process it is the whole, n = m = N; distributed, each rank sees its strip.

    S_ij  = scale <image_i, text_j> + bias            Z^s_ij = scale_s <left_i, right_j> + bias_s
    same  = 1 where i and j are positives (`Problem.same`);      rho = `row_share`, sums to 1 over N
    H_ij  = (1 - mix) [(1 - smoothing) same_ij / positives of i + smoothing / N]     hard targets
    r_i, c_j, R^s_i, C^s_j = log-sum-exp over a whole row or column of S and of Z^s

    statistics(problem) -> Statistics                               sweep 1: one pass over tiles
    gradients(problem, statistics, grad_contrastive, grad_affinity) -> Gradients         sweep 2
    one_sweep(problem) -> (Statistics, Gradients)  sigmoid without sources, grad_contrastive = 1

Sweep 1 returns `Statistics` of this rectangle alone; `merge` joins them over rectangles, `terms`
turns the whole batch's into the two values. Sweep 2 needs the whole batch's statistics, from which
`coefficients` makes the vectors (`row.`, `column.`) of the gradient tile G = dL/dS; then

    image = scale G text     text = scale G.T image     logit_scale = sum_ij G_ij <image_i, text_j>

and logit_bias = sum_ij G_ij for sigmoid, exactly 0 for softmax (a softmax sees no shift).

    softmax  G_ij = row.student_i e^(S_ij - r_i) + column.student_j e^(S_ij - c_j)
                    - same_ij (row.positive_i + column.positive_j) - row.smooth_i - column.smooth_j
                    + (1 - same_ij) (row.negative_i e^(S_ij - row.divisor_i)
                                     + column.negative_j e^(S_ij - column.divisor_j))  [divisors]
                    - sum_s row.source_si e^(Z^s_ij - R^s_i) + column.source_sj e^(Z^s_ij - C^s_j)
    sigmoid  G_ij = (rho_i + rho_j) / 2 [gc (sigma(S_ij) - same_ij) + ga (sigma(S_ij) - q_ij)],
                    q = sum_s row_weight_s sigma(Z^s);   gc, ga = grad_contrastive, grad_affinity

Rows arrive in the caller's dtype; logits, softmaxes and sums are in `Problem.dtype`, as are all
statistics and gradients. Nothing here may move a value to the host.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from teachers.contract import Kind

Impl = Literal["auto", "reference", "tiled", "triton"]
Targets = Literal["mean_prob", "mean_logit"]


@dataclass(frozen=True, kw_only=True)
class Source:
    """Logits Z whose softmaxes are targets: a teacher, or its similarities within one modality.

    Attributes:
        left: rows `(n, k)`; unit rows, or several teachers' scaled and concatenated (mean_logit).
        right: rows `(m, k)`.
        scale: 0-dim, the factor itself.
        bias: 0-dim; 0 where there is none.
        row_weight: weight of the row softmax in its term; 0 drops it (text within text).
        column_weight: weight of the column softmax in its term; 0 drops it (image within image).
        contrastive: whether it softens the contrastive targets (SoftCLIP) instead of being one
            of the affinity's. The weights of an affinity sum to 1, of a softening to `mix`.
    """

    left: Float[Tensor, "n k"]
    right: Float[Tensor, "m k"]
    scale: Float[Tensor, ""]
    bias: Float[Tensor, ""]
    row_weight: float
    column_weight: float
    contrastive: bool = False


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One rectangle of the batch; see the module's docstring.

    Attributes:
        image: the student's rows `(n, d)`.
        text: the student's columns `(m, d)`, the same dtype.
        logit_scale: 0-dim, the factor itself.
        logit_bias: 0-dim; 0 where there is none.
        sources: target logits; none is a hard loss.
        kind: softmax or sigmoid.
        batch: N, rows of the whole batch.
        row_share: `(n,)`, weight of each row's loss; 1 / N, or normalised row weights.
        column_share: `(m,)`, the same for columns.
        diagonal: without ids, image i belongs to text j where i == j + diagonal.
        row_ids: `(n,)` or None; equal ids are positives. With ids `diagonal` is not read.
        column_ids: `(m,)` or None.
        row_positives: `(n,)`, how many positives row i has in the whole batch; 1 without ids.
        column_positives: `(m,)`.
        label_smoothing: in [0, 1); 0 for sigmoid.
        mix: share of the contrastive targets that `contrastive` sources take; 0 without them.
        row_divisor: `(n,)` or None; external log-divisors replace the log-sum-exp in the
            contrastive term: 1/2 sum_i rho_i sum_(j not same) e^(S_ij - p_i - row_divisor_i) plus
            the columns', p_i the mean logit of i's positives. Softmax only, no smoothing, no mix.
        column_divisor: `(m,)` or None.
    """

    image: Float[Tensor, "n d"]
    text: Float[Tensor, "m d"]
    logit_scale: Float[Tensor, ""]
    logit_bias: Float[Tensor, ""]
    sources: tuple[Source, ...] = ()
    kind: Kind = "softmax"
    batch: int
    row_share: Float[Tensor, " n"]
    column_share: Float[Tensor, " m"]
    diagonal: int = 0
    row_ids: Int64[Tensor, " n"] | None = None
    column_ids: Int64[Tensor, " m"] | None = None
    row_positives: Float[Tensor, " n"]
    column_positives: Float[Tensor, " m"]
    label_smoothing: float = 0.0
    mix: float = 0.0
    row_divisor: Float[Tensor, " n"] | None = None
    column_divisor: Float[Tensor, " m"] | None = None

    @property
    def dtype(self) -> torch.dtype:
        """What logits and sums are computed in: float64 for float64 rows, else float32."""
        return torch.promote_types(self.image.dtype, torch.float32)

    @property
    def has_affinity(self) -> bool:
        """Whether a source belongs to the affinity."""
        return any(not source.contrastive for source in self.sources)

    def same(self, rows: slice, columns: slice) -> Bool[Tensor, "rows columns"]:
        """Mask of positives of one tile."""
        if self.row_ids is not None and self.column_ids is not None:
            return self.row_ids[rows, None] == self.column_ids[None, columns]
        i = torch.arange(rows.start, rows.stop, device=self.image.device)
        j = torch.arange(columns.start, columns.stop, device=self.image.device)
        return i[:, None] == j[None, :] + self.diagonal


class Side(NamedTuple):
    """Statistics of the rows, or of the columns; K sources, `n` entries. Unused ones are 0.

    Attributes:
        lse: `(1 + K, n)`, log-sum-exp over the rectangle of S, then of each Z^s.
        dot: `(K, n)`, expectation of S under the softmax of Z^s within the rectangle.
        positive: `(n,)`, sum of S over the positives.
        total: `(n,)`, sum of S over everything; only with label_smoothing.
        negative: `(n,)`, log-sum-exp of S over all but the positives (-inf where there are
            none); only with divisors.
    """

    lse: Float[Tensor, "k1 n"]
    dot: Float[Tensor, "k n"]
    positive: Float[Tensor, " n"]
    total: Float[Tensor, " n"]
    negative: Float[Tensor, " n"]


class Statistics(NamedTuple):
    """What sweep 1 leaves: O((n + m) (1 + K)) numbers.

    `pairs` is, for sigmoid, the rectangle's part of (contrastive, affinity), shares included;
    then both sides are zeros. For softmax it is zeros.
    """

    rows: Side
    columns: Side
    pairs: Float[Tensor, " 2"]


class Gradients(NamedTuple):
    """The rectangle's part of the gradients, in `Problem.dtype`."""

    image: Float[Tensor, "n d"]
    text: Float[Tensor, "m d"]
    logit_scale: Float[Tensor, ""]
    logit_bias: Float[Tensor, ""]


class Coefficients(NamedTuple):
    """One side's vectors of the gradient tile (module docstring); shares and signs inside.

    `negative` and `divisor` are None without divisors; `source` is `(K, n)`.
    """

    student: Float[Tensor, " n"]
    positive: Float[Tensor, " n"]
    smooth: Float[Tensor, " n"]
    source: Float[Tensor, "k n"]
    negative: Float[Tensor, " n"] | None
    divisor: Float[Tensor, " n"] | None


def merge(a: Side, b: Side) -> Side:
    """Statistics of the same entries over two rectangles side by side."""
    lse = torch.logaddexp(a.lse, b.lse)
    # An empty softmax has lse -inf on both sides; its share is 0, not nan.
    share_a, share_b = ((side.lse - lse).exp().nan_to_num(0.0)[1:] for side in (a, b))
    return Side(
        lse,
        share_a * a.dot + share_b * b.dot,
        a.positive + b.positive,
        a.total + b.total,
        torch.logaddexp(a.negative, b.negative),
    )


def pack(side: Side) -> Float[Tensor, "q n"]:
    """All statistics of a side as one matrix of 4 + 2 K rows."""
    return torch.cat([side.lse, side.dot, torch.stack(side[2:])])


def unpack(packed: Float[Tensor, "q n"], num_sources: int) -> Side:
    """Undo `pack`."""
    lse, dot, vectors = packed.split([1 + num_sources, num_sources, 3])
    return Side(lse, dot, *vectors)


def terms(problem: Problem, statistics: Statistics) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Contrastive and affinity values from statistics merged over the whole batch.

    Distributed, this is the rectangle's part of both directions: its rows' and its columns'.
    Give each entry once and the ranks' sum is the loss.
    """
    if problem.kind == "sigmoid":
        return statistics.pairs[0], statistics.pairs[1]
    rows = _side_terms(problem, statistics.rows, by_row=True)
    columns = _side_terms(problem, statistics.columns, by_row=False)
    return (rows[0] + columns[0]) / 2, (rows[1] + columns[1]) / 2


def _side_terms(
    problem: Problem, side: Side, by_row: bool
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    share, positives, divisor = _vectors(problem, by_row)
    mean_positive = side.positive / positives
    if divisor is not None:
        hard = (side.negative - mean_positive - divisor).exp()
    else:
        smoothing = problem.label_smoothing
        target = (1 - smoothing) * mean_positive + smoothing / problem.batch * side.total
        hard = side.lse[0] - (1 - problem.mix) * target
    soft = side.lse[0] if problem.has_affinity else torch.zeros_like(side.lse[0])
    for source, dot in zip(problem.sources, side.dot, strict=True):
        weight = source.row_weight if by_row else source.column_weight
        if source.contrastive:
            hard = hard - weight * dot
        else:
            soft = soft - weight * dot
    return (share * hard).sum(), (share * soft).sum()


def _vectors(problem: Problem, by_row: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    """Shares, counts of positives and divisor of one side."""
    if by_row:
        return problem.row_share, problem.row_positives, problem.row_divisor
    return problem.column_share, problem.column_positives, problem.column_divisor


def coefficients(
    problem: Problem,
    statistics: Statistics,
    grad_contrastive: Float[Tensor, ""],
    grad_affinity: Float[Tensor, ""],
) -> tuple[Coefficients, Coefficients]:
    """Rows' and columns' vectors of the softmax gradient tile."""
    return (
        _side_coefficients(problem, statistics.rows, grad_contrastive, grad_affinity, True),
        _side_coefficients(problem, statistics.columns, grad_contrastive, grad_affinity, False),
    )


def _side_coefficients(
    problem: Problem, side: Side, contrastive: Tensor, affinity: Tensor, by_row: bool
) -> Coefficients:
    share, positives, divisor = _vectors(problem, by_row)
    half, soft = share / 2, affinity if problem.has_affinity else torch.zeros_like(affinity)
    weights = [s.row_weight if by_row else s.column_weight for s in problem.sources]
    source = [
        weight * (contrastive if s.contrastive else affinity) * half
        for weight, s in zip(weights, problem.sources, strict=True)
    ]
    stacked = torch.stack(source) if source else half.new_zeros(0, half.shape[0])
    if divisor is not None:
        shift = side.positive / positives + divisor
        negative = contrastive * half
        pull = negative * (side.negative - shift).exp() / positives
        return Coefficients(soft * half, pull, torch.zeros_like(half), stacked, negative, shift)
    hard = (1 - problem.mix) * contrastive * half
    smoothing = problem.label_smoothing
    return Coefficients(
        (contrastive + soft) * half,
        (1 - smoothing) * hard / positives,
        smoothing / problem.batch * hard,
        stacked,
        None,
        None,
    )
