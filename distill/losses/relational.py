"""Relational distillation: rows of one modality should stand to each other as the teacher's do.

    softmax    mean_i KL( softmax_j(t y_i y_j) || softmax_j(t x_i x_j) ),  j != i
    distance   mean_ij h( |x_i - x_j| / m - |y_i - y_j| / m' ),  j != i

softmax is CompRess (arXiv:2010.14713; its anchors are a memory bank, here they are the batch),
with one temperature 1/t for student and teacher. distance is RKD's distance-wise loss
(arXiv:1904.05068): m and m' are the mean distances, h is Huber's loss; the mean over pairs where
the paper sums. Widths may differ, so there is no adapter. Blocks of rows are computed
again in the backward pass: nothing keeps N x N. Leaves out RKD's angles, which are N^3.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from distill.losses.adapters import MODALITIES
from teachers.contract import Embeddings

RelationalKind = Literal["softmax", "distance"]
_BLOCK = 1_024


def neighbour_divergence(
    student: Float[Tensor, "n s"],
    teacher: Float[Tensor, "n t"],
    scale: float,
    block: int = _BLOCK,
) -> Float[Tensor, ""]:
    """Mean over rows of the KL divergence between the softmaxes over all other rows."""

    def part(first: int, x: Tensor) -> Tensor:
        learned = _others(scale * x[first : first + block] @ x.T, first).log_softmax(dim=1)
        taught = _others(scale * y[first : first + block] @ y.T, first).log_softmax(dim=1)
        return (taught.exp() * (taught - learned)).sum()

    y = teacher.detach().to(student)
    return _sum_of_blocks(part, student, block) / student.shape[0]


def distance_difference(
    student: Float[Tensor, "n s"], teacher: Float[Tensor, "n t"], block: int = _BLOCK
) -> Float[Tensor, ""]:
    """Mean over pairs of Huber's loss between distances in units of their mean; unit rows."""
    pairs = student.shape[0] * (student.shape[0] - 1)

    def distances(rows: Tensor, first: int) -> Tensor:
        # Rows nearer than 1e-3 (equal captions) count as that near: a root has no slope at 0.
        squared = 2 - 2 * rows[first : first + block] @ rows.T
        return _others(squared.clamp(min=1e-6).sqrt(), first, 0.0)

    def total(first: int, x: Tensor) -> Tensor:
        return distances(x, first).sum()

    def part(first: int, x: Tensor) -> Tensor:
        learned, taught = distances(x, first) / x_mean, distances(y, first) / y_mean
        return F.smooth_l1_loss(learned, taught, reduction="sum")

    y = teacher.detach().to(student)
    if not pairs:
        return 0 * student.sum()
    x_mean = _sum_of_blocks(total, student, block) / pairs
    y_mean = _sum_of_blocks(total, y, block) / pairs
    return _sum_of_blocks(part, student, block) / pairs


def relational_loss(
    student: Embeddings,
    teachers: Sequence[Embeddings],
    *,
    kind: RelationalKind = "softmax",
    scale: float = 25.0,
    weights: Sequence[float] | None = None,
) -> Float[Tensor, ""]:
    """Mean over both modalities and weighted mean over teachers.

    Args:
        student: unit rows with gradient.
        teachers: of any width; rows of width 0 (no such modality) are left out.
        kind: "softmax" or "distance".
        scale: of the similarities, one over the temperature; softmax only.
        weights: one per teacher; equal when None.
    """
    shares = list(weights or [1.0] * len(teachers))
    terms = []
    with torch.autocast(student.image.device.type, enabled=False):
        for modality in MODALITIES:
            x = getattr(student, modality)
            x = x if x.dtype == torch.float64 else x.float()
            targets = [getattr(teacher, modality) for teacher in teachers]
            having = [k for k, rows in enumerate(targets) if rows.numel() and shares[k]]
            if not having:
                continue
            losses = [
                neighbour_divergence(x, targets[k], scale)
                if kind == "softmax"
                else distance_difference(x, targets[k])
                for k in having
            ]
            taken = [shares[k] for k in having]
            weighted = [share * loss for share, loss in zip(taken, losses, strict=True)]
            terms.append(torch.stack(weighted).sum() / sum(taken))
    return torch.stack(terms).mean()


def _others(block: Float[Tensor, "b n"], first: int, value: float = -1e4) -> Float[Tensor, "b n"]:
    """Take each row's pair with itself out: exp(-1e4) is 0, and differences stay finite."""
    own = torch.arange(block.shape[0], device=block.device)
    itself = torch.zeros_like(block, dtype=torch.bool)
    itself[own, first + own] = True
    return block.masked_fill(itself, value)


def _sum_of_blocks(
    part: Callable[[int, Tensor], Tensor], rows: Float[Tensor, "n d"], block: int
) -> Float[Tensor, ""]:
    """Add up `part(first row, all rows)` over the blocks; their insides are not kept."""
    firsts = range(0, rows.shape[0], block)
    parts = [
        checkpoint(part, first, rows, use_reentrant=False, preserve_rng_state=False)
        for first in firsts
    ]
    return torch.stack(parts).sum()
