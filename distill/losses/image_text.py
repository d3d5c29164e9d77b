"""Contrastive loss and affinity mimicking of one batch, as an objective asks for them.

Thin over `image_text_loss`: softens the teachers, and decides what a sigmoid student learns from a
teacher without a bias. Such a teacher has no pairwise probabilities, only rows of them, so the
affinity is the softmax one then; the student's bias plays no part in it.
"""

from collections.abc import Sequence

import torch.distributed as dist
from jaxtyping import Float, Int64
from torch import Tensor

from distill.losses.teacher_subsets import affinity_of_subsets
from distill.ops import Embeddings, ImageTextTerms, image_text_loss
from distill.ops.image_text import Targets
from teachers.contract import Kind


def contrastive_and_affinity(
    student: Embeddings,
    teachers: Sequence[Embeddings] = (),
    *,
    kind: Kind | None = None,
    teacher_weights: Sequence[float] | None = None,
    teacher_scale: float | Sequence[float] = 1.0,
    teacher_shares: Float[Tensor, "n k"] | None = None,
    targets: Targets = "mean_prob",
    positives: Int64[Tensor, " n"] | None = None,
    label_smoothing: float = 0.0,
    row_weights: Float[Tensor, " n"] | None = None,
    group: dist.ProcessGroup | None = None,
) -> ImageTextTerms:
    """Both losses; affinity is 0 without teachers.

    Args:
        student: unit rows with gradient.
        teachers: with both modalities.
        kind: of the contrastive loss, and of the affinity where all teachers have a bias; what the
            student has when None.
        teacher_weights: one per teacher; equal when None.
        teacher_scale: factor on the teachers' logits, bias and all; or one per teacher.
        teacher_shares: what each sample's affinity takes of each teacher, in place of the weights.
        targets: how teachers are averaged.
        positives: one id per row; equal ids are positives of each other.
        label_smoothing: of the hard targets.
        row_weights: of each pair, in both losses; equal when None.
        group: as in `image_text_loss`.
    """
    kind = kind or ("softmax" if student.logit_bias is None else "sigmoid")
    one = isinstance(teacher_scale, float | int)
    factors = [teacher_scale] * len(teachers) if one else list(teacher_scale)
    taught = [soften(*pair) for pair in zip(teachers, factors, strict=False)]
    unlike = kind == "sigmoid" and any(teacher.logit_bias is None for teacher in taught)
    apart = unlike or (teacher_shares is not None and bool(taught))
    together = [] if apart else taught
    terms = image_text_loss(
        student,
        together,
        teacher_weights=teacher_weights if together else None,
        kind=kind,
        targets=targets,
        positives=positives,
        label_smoothing=label_smoothing,
        row_weights=row_weights,
        group=group,
    )
    if not apart:
        return terms
    without_bias = student._replace(logit_bias=None) if unlike else student
    if teacher_shares is not None:
        taught_kind = "softmax" if unlike else kind
        if row_weights is not None:
            teacher_shares = teacher_shares * row_weights[:, None]
        affinity = affinity_of_subsets(
            without_bias, taught, teacher_shares, kind=taught_kind, group=group
        )
        return terms._replace(affinity=affinity)
    soft = image_text_loss(
        without_bias,
        taught,
        teacher_weights=teacher_weights,
        targets=targets,
        row_weights=row_weights,
        group=group,
    )
    return terms._replace(affinity=soft.affinity)


def soften(teacher: Embeddings, factor: float) -> Embeddings:
    """Scale a teacher's logits, bias and all."""
    bias = teacher.logit_bias
    return teacher._replace(
        logit_scale=teacher.logit_scale * factor,
        logit_bias=None if bias is None else bias * factor,
    )
