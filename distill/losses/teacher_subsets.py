"""Teacher dropping for affinities: each sample learns from a random subset of the teachers.

A cross-entropy is linear in its targets. So the loss against targets that weigh the teachers
differently for every sample is the sum over teachers of the loss against each, every sample in it
weighted with its share of that teacher, as a row and as a column alike:

    sum_k (sum_i w_ik / N) L_k(row_weights = w_k),    L_k normalises its weights to sum 1

What is drawn is a function of (seed, sample, teacher): not of the rank, nor of the batch's order.
UNIC's way for the feature term, which keeps the hardest teacher, is `feature.drop_teachers`.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.distributed as dist
from jaxtyping import Float, Int64
from torch import Tensor

from distill.ops import Embeddings, image_text_loss
from teachers.contract import Kind

_GOLDEN = 0x9E3779B97F4A7C15


def teacher_shares(
    samples: Int64[Tensor, " n"], weights: Sequence[float], probability: float, seed: int
) -> Float[Tensor, "n k"]:
    """Weights of the teachers for every sample: they sum to 1, those dropped are 0.

    Args:
        samples: one number each, such as a hash of its key.
        weights: of the teachers, not all 0.
        probability: with which each teacher is left out. Where all would be, the one that was
            nearest to staying stays.
        seed: of the step.
    """
    given = torch.tensor(list(weights), dtype=torch.float64)
    draws = _uniform(samples, len(given), seed)
    draws = torch.where(given > 0, draws, -1.0)
    kept = (draws >= probability) & (given > 0)
    kept = kept | (draws == draws.amax(dim=1, keepdim=True)) & ~kept.any(dim=1, keepdim=True)
    shares = kept * given
    return (shares / shares.sum(dim=1, keepdim=True)).to(samples.device)


def affinity_of_subsets(
    student: Embeddings,
    teachers: Sequence[Embeddings],
    shares: Float[Tensor, "n k"],
    *,
    kind: Kind,
    group: dist.ProcessGroup | None = None,
) -> Float[Tensor, ""]:
    """The affinity term where sample i weighs teacher k with `shares[i, k]` (mean of softmaxes).

    The sum of a sample's shares is its own weight; they are normalised together to sum 1.
    Of a sigmoid student a pair's target is the mean of its row's and its column's. Shapes and
    groups are as in `image_text_loss`.
    """
    masses = shares.sum(dim=0)
    if group is not None:
        dist.all_reduce(masses, group=group)
    total = student.image.new_zeros(())
    for k, mass in enumerate((masses / masses.sum()).tolist()):
        if mass:
            weights = shares[:, k].to(student.image)
            term = image_text_loss(
                student, [teachers[k]], kind=kind, row_weights=weights, group=group
            )
            total = total + mass * term.affinity
    return total


def _uniform(samples: Int64[Tensor, " n"], count: int, seed: int) -> Float[Tensor, "n k"]:
    """Numbers in [0, 1) by sample and teacher: SplitMix64 of both and the seed."""
    numbers = samples.cpu().numpy().astype(np.uint64)[:, None]
    salts = _mix(np.arange(1, count + 1, dtype=np.uint64) * np.uint64(_GOLDEN) ^ np.uint64(seed))
    return torch.from_numpy((_mix(numbers ^ salts) >> np.uint64(11)) / float(1 << 53))


def _mix(values: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser; wraps around."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
