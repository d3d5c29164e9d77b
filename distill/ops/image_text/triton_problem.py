"""`problem.py`'s two sweeps on an NVIDIA GPU: Problem in, Statistics and Gradients out.

No host synchronisation, no N x N memory, equal bits in equal runs. float64 is for the tiled
implementation. On a CPU it runs in Triton's interpreter only (TRITON_INTERPRET=1), for tests.
"""

import torch
from jaxtyping import Float, Float32
from torch import Tensor

from distill.ops.image_text.problem import (
    Coefficients,
    Gradients,
    Problem,
    Side,
    Statistics,
    coefficients,
)
from distill.ops.image_text.triton_launch import Operands
from distill.ops.image_text.triton_sweeps import (
    Products,
    Softmaxes,
    Vectors,
    sigmoid_pairs,
    softmax_gradient,
    softmax_sums,
)
from distill.ops.image_text.triton_tiling import Tiling
from distill.ops.image_text.triton_tuning import tiling_for


def statistics(problem: Problem, tiling: Tiling | None = None) -> Statistics:
    """Sweep 1 of `problem.py`; `tiling` instead of the fastest."""
    operands = Operands.of(problem)
    tiling = tiling or tiling_for(operands, "sums")
    if problem.kind == "sigmoid":
        pairs = sigmoid_pairs(operands, tiling, *_weights_and_shares(problem))
        return _pair_statistics(problem, pairs.values)
    rows, columns = softmax_sums(operands, tiling)
    return Statistics(
        _side(problem, operands, rows, by_row=True),
        _side(problem, operands, columns, by_row=False),
        operands.scales.new_zeros(2),
    )


def gradients(
    problem: Problem,
    statistics: Statistics,
    grad_contrastive: Float[Tensor, ""],
    grad_affinity: Float[Tensor, ""],
    tiling: Tiling | None = None,
) -> Gradients:
    """Sweep 2 of `problem.py`; `tiling` instead of the fastest."""
    operands = Operands.of(problem)
    tiling = tiling or tiling_for(operands, "gradients")
    if problem.kind == "sigmoid":
        upstream = torch.stack([grad_contrastive, grad_affinity]).float()
        weighed = _weights_and_shares(problem)
        pairs = sigmoid_pairs(operands, tiling, *weighed, upstream=upstream, values=False)
        assert pairs.products is not None
        return _finish(problem, pairs.products, pairs.gradient_sum)
    rows, columns = coefficients(problem, statistics, grad_contrastive, grad_affinity)
    products = softmax_gradient(
        operands,
        tiling,
        _vectors(problem, operands, statistics.rows, rows, by_row=True),
        _vectors(problem, operands, statistics.columns, columns, by_row=False),
    )
    if problem.label_smoothing:
        products = _smoothed(problem, products, rows.smooth, columns.smooth)
    return _finish(problem, products, operands.scales.new_zeros(()))


def one_sweep(problem: Problem, tiling: Tiling | None = None) -> tuple[Statistics, Gradients]:
    """Sigmoid without sources: both sweeps in one; the contrastive value's gradient is 1."""
    assert problem.kind == "sigmoid" and not problem.sources
    operands = Operands.of(problem)
    tiling = tiling or tiling_for(operands, "gradients")
    upstream = torch.stack([operands.scales.new_ones(()), operands.scales.new_zeros(())])
    pairs = sigmoid_pairs(operands, tiling, *_weights_and_shares(problem), upstream=upstream)
    assert pairs.products is not None
    gradients = _finish(problem, pairs.products, pairs.gradient_sum)
    return _pair_statistics(problem, pairs.values), gradients


def _weights_and_shares(
    problem: Problem,
) -> tuple[Float32[Tensor, " k"], tuple[Float32[Tensor, " n"], Float32[Tensor, " m"]]]:
    """Weights of every matrix in the target, filled on the device; shares of the rows' losses."""
    like = problem.row_share.float()
    weights = [like.new_full((), source.row_weight) for source in problem.sources]
    return torch.stack([like.new_zeros(()), *weights]), (like, problem.column_share.float())


def _pair_statistics(problem: Problem, values: Float32[Tensor, " 2"]) -> Statistics:
    """Sigmoid has values only: both sides are zeros."""
    count = len(problem.sources)

    def side(n: int) -> Side:
        zeros = values.new_zeros
        return Side(zeros(1 + count, n), zeros(count, n), zeros(n), zeros(n), zeros(n))

    return Statistics(side(problem.image.shape[0]), side(problem.text.shape[0]), values)


def _side(problem: Problem, operands: Operands, found: Softmaxes, by_row: bool) -> Side:
    """The sums with scales and biases put back."""
    scale, bias = problem.logit_scale.float(), problem.logit_bias.float()
    count = len(operands.lefts)
    own, other = (problem.image, problem.text) if by_row else (problem.text, problem.image)
    zeros = found.log_sums.new_zeros(found.log_sums.shape[1])
    total = zeros
    if problem.label_smoothing:
        total = scale * (own.float() @ other.sum(0, dtype=torch.float32)) + bias * len(other)
    return Side(
        lse=found.log_sums[:count] + operands.biases[:, None],
        dot=scale * found.means + bias,
        positive=_positive(problem, found.positives, by_row),
        total=total,
        negative=found.log_sums[-1] + bias if operands.negatives else zeros,
    )


def _positive(
    problem: Problem, products: Float32[Tensor, " n"] | None, by_row: bool
) -> Float32[Tensor, " n"]:
    """Sum of the student's logits over each entry's positives in this rectangle."""
    scale, bias = problem.logit_scale.float(), problem.logit_bias.float()
    n, m = problem.image.shape[0], problem.text.shape[0]
    if products is None:
        first, last = max(0, problem.diagonal), min(n, m + problem.diagonal)
        image = problem.image[first:last].float()
        text = problem.text[first - problem.diagonal : last - problem.diagonal].float()
        scores = scale * (image * text).sum(1) + bias
        before = first if by_row else first - problem.diagonal
        after = (n if by_row else m) - before - len(scores)
        return torch.nn.functional.pad(scores, (before, after))
    assert problem.row_ids is not None and problem.column_ids is not None
    ids = (problem.row_ids, problem.column_ids)
    own, other = ids if by_row else ids[::-1]
    there = other.sort().values
    count = torch.searchsorted(there, own, right=True) - torch.searchsorted(there, own)
    return scale * products + bias * count


def _vectors(
    problem: Problem, operands: Operands, side: Side, given: Coefficients, by_row: bool
) -> Vectors:
    """One direction's vectors as the kernel takes them, and a bound on dL/dlogit."""
    parts, log_sums = [given.student, *given.source], [*(side.lse - operands.biases[:, None])]
    sizes = [part.abs().amax() for part in (*parts, given.positive)]
    if given.negative is not None and given.divisor is not None:
        parts.append(given.negative)
        log_sums.append(given.divisor - operands.biases[0])
        # e^(S - divisor) may exceed 1; all of a row's negatives together are what `positive` has.
        counts = problem.row_positives if by_row else problem.column_positives
        sizes.append((given.positive * counts).abs().amax())
    return Vectors(
        given.positive, torch.stack(parts), torch.stack(log_sums), torch.stack(sizes).sum()
    )


def _smoothed(
    problem: Problem,
    products: Products,
    rows: Float32[Tensor, " n"],
    columns: Float32[Tensor, " m"],
) -> Products:
    """Take -row_i - column_j off dL/dlogit: a matrix of rank two, O(N d)."""
    image, text = problem.image.float(), problem.text.float()
    return Products(
        products.image - torch.outer(rows, text.sum(0)) - columns @ text,
        products.text - torch.outer(columns, image.sum(0)) - rows @ image,
    )


def _finish(problem: Problem, products: Products, gradient_sum: Float32[Tensor, ""]) -> Gradients:
    """Gradients of the rows and of the scale from dL/dlogit's products; the bias's is its sum."""
    scale = problem.logit_scale.float()
    of_scale = (products.image * problem.image).sum()  # = sum_ij G_ij <image_i, text_j>
    image, text = products.image.mul_(scale), products.text.mul_(scale)
    return Gradients(image, text, of_scale, gradient_sum)
