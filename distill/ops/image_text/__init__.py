"""`image_text_loss`: hard, sigmoid and multi-teacher affinity losses behind one call.

Checks arguments, brings everything to float32 at least, gathers over ranks when asked, and
dispatches by `impl`. Weights of the terms are the caller's.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
import torch.distributed as dist
from jaxtyping import Float, Int64
from torch import Tensor

from distill.ops.gathering import gather_embeddings, gather_rows
from distill.ops.image_text import reference
from teachers.contract import Embeddings, Kind

Targets = Literal["mean_prob", "mean_logit"]
Impl = Literal["auto", "reference"]


class ImageTextTerms(NamedTuple):
    """Two scalars; `affinity` is 0 when there are no teachers."""

    contrastive: Float[Tensor, ""]
    affinity: Float[Tensor, ""]


def image_text_loss(
    student: Embeddings,
    teachers: Sequence[Embeddings] = (),
    *,
    teacher_weights: Sequence[float] | None = None,
    kind: Kind = "softmax",
    targets: Targets = "mean_prob",
    positives: Int64[Tensor, " n"] | None = None,
    label_smoothing: float = 0.0,
    group: dist.ProcessGroup | None = None,
    check: bool = False,
    impl: Impl = "auto",
) -> ImageTextTerms:
    """Contrastive and affinity loss of one batch (equations in `reference.py`).

    Args:
        student: unit rows with gradient; `logit_scale` is the factor itself.
        teachers: any number, of any width, each with its own scale (and bias).
        teacher_weights: one per teacher, normalised to sum 1; equal when None.
        kind: "softmax" (InfoNCE) or "sigmoid" (SigLIP; needs every model's `logit_bias`).
        targets: mean of the teachers' probabilities, or softmax of their mean logits.
        positives: one id per row; rows with equal ids are positives of each other.
        label_smoothing: mass spread evenly over a row of the hard targets; softmax only.
        group: gather all rows over this process group first. Gradients are right under DDP's
            averaging. Pass `torch.distributed.group.WORLD` for the default group.
        check: verify values (unit rows, finite scale) on any device; the CPU always does.
        impl: which implementation.

    Returns:
        Scalars, mean over both directions (softmax) or summed and divided by n (sigmoid).

    Raises:
        ValueError: names the argument and what was expected.
    """
    _check_arguments(student, teachers, teacher_weights, kind, targets, positives, impl)
    if not 0 <= label_smoothing < 1 or (label_smoothing and kind == "sigmoid"):
        raise ValueError(
            f"label_smoothing must be in [0, 1) and 0 for kind='sigmoid', got {label_smoothing}"
        )
    with torch.autocast(student.image.device.type, enabled=False):
        student, teachers = _upcast(student), [_upcast(teacher) for teacher in teachers]
        if check or student.image.device.type == "cpu":
            for name, model in [("student", student), *_named(teachers)]:
                _check_values(name, model)
        if group is not None:
            student = gather_embeddings(student, group)
            teachers = [gather_embeddings(teacher, group) for teacher in teachers]
            positives = None if positives is None else gather_rows(positives, group)
        hard = reference.contrastive(student, kind, positives, label_smoothing)
        if not teachers:
            return ImageTextTerms(hard, hard.new_zeros(()))
        weights = torch.tensor(teacher_weights or [1.0] * len(teachers), dtype=torch.float64)
        weights = (weights / weights.sum()).to(hard)
        soft = reference.affinity(student, teachers, weights, kind, targets)
        return ImageTextTerms(hard, soft)


def _named(teachers: Sequence[Embeddings]) -> list[tuple[str, Embeddings]]:
    return [(f"teachers[{k}]", teacher) for k, teacher in enumerate(teachers)]


def _upcast(model: Embeddings) -> Embeddings:
    """At least float32; float64 stays."""

    def up(x: Tensor) -> Tensor:
        return x if x.dtype == torch.float64 else x.float()

    image, text = up(model.image), up(model.text)
    bias = None if model.logit_bias is None else model.logit_bias.to(image.dtype)
    return Embeddings(image, text, model.logit_scale.to(image.dtype), bias)


def _check_arguments(
    student: Embeddings,
    teachers: Sequence[Embeddings],
    teacher_weights: Sequence[float] | None,
    kind: str,
    targets: str,
    positives: Tensor | None,
    impl: str,
) -> None:
    """Raise on anything that shapes and names alone can tell; costs no synchronisation."""
    for name, value, known in (
        ("kind", kind, ("softmax", "sigmoid")),
        ("targets", targets, ("mean_prob", "mean_logit")),
        ("impl", impl, ("auto", "reference")),
    ):
        if value not in known:
            raise ValueError(f"{name} must be one of {known}, got {value!r}")
    n = student.image.shape[0]
    for name, model in [("student", student), *_named(teachers)]:
        if model.image.shape != model.text.shape or model.image.ndim != 2:
            raise ValueError(
                f"{name}: image and text must both be (n, d), got {tuple(model.image.shape)} and "
                f"{tuple(model.text.shape)}"
            )
        if model.image.shape[0] != n:
            raise ValueError(f"{name} has {model.image.shape[0]} rows, the student has {n}")
        if kind == "sigmoid" and model.logit_bias is None:
            raise ValueError(f"kind='sigmoid' needs {name}.logit_bias, which is None")
    if positives is not None and positives.shape != (n,):
        raise ValueError(f"positives must be ({n},), got {tuple(positives.shape)}")
    if teacher_weights is not None and (
        len(teacher_weights) != len(teachers)
        or min(teacher_weights) < 0
        or not any(teacher_weights)
    ):
        raise ValueError(
            f"teacher_weights must be {len(teachers)} numbers >= 0, not all 0, "
            f"got {list(teacher_weights)}"
        )


def _check_values(name: str, model: Embeddings) -> None:
    """Raise on rows that are not unit vectors and on a scale that is not finite."""
    for part, rows in (("image", model.image), ("text", model.text)):
        norms = rows.detach().norm(dim=1)
        if not torch.all((norms - 1).abs() < 1e-2):
            worst = norms[(norms - 1).abs().nan_to_num(torch.inf).argmax()].item()
            raise ValueError(f"{name}.{part} must have unit rows; a row has norm {worst:.4g}")
    if not torch.isfinite(model.logit_scale).all():
        raise ValueError(f"{name}.logit_scale must be finite, got {model.logit_scale.item()}")
