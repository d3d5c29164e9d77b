"""`image_text_loss`: hard, sigmoid and multi-teacher affinity losses behind one call.

Checks arguments, writes them in normal form (`arguments.py`, `problem.py`), gathers over ranks when
asked, and dispatches by `impl`. Weights of the terms are the caller's.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, NamedTuple

import torch
import torch.distributed as dist
from jaxtyping import Float, Int64
from torch import Tensor

from distill.ops.gathering import gather_embeddings, gather_rows, world_size
from distill.ops.image_text import reference
from distill.ops.image_text.arguments import (
    IntraModal,
    Options,
    check_arguments,
    check_values,
    normal_form,
)
from distill.ops.image_text.operator import image_text_values
from distill.ops.image_text.problem import Impl, Targets
from distill.ops.image_text.sweeps import chosen
from teachers.contract import Embeddings, Kind

__all__ = ["Exchange", "ImageTextTerms", "Impl", "IntraModal", "Targets", "image_text_loss"]


Exchange = Literal["gather", "ring"]


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
    intra_modal: IntraModal | None = None,
    row_weights: Float[Tensor, " n"] | None = None,
    divisors: tuple[Float[Tensor, " n"], Float[Tensor, " n"]] | None = None,
    group: dist.ProcessGroup | None = None,
    check: bool = False,
    impl: Impl = "auto",
    exchange: Exchange = "gather",
) -> ImageTextTerms:
    """Contrastive and affinity loss of one batch (equations in `reference.py`).

    Args:
        student: unit rows with gradient; `logit_scale` is the factor itself.
        teachers: any number, of any width, each with its own scale (and bias). No gradient.
        teacher_weights: one per teacher, normalised to sum 1; equal when None.
        kind: "softmax" (InfoNCE) or "sigmoid" (SigLIP; needs every model's `logit_bias`).
        targets: mean of the teachers' probabilities, or softmax of their mean logits.
        positives: one id per row; rows with equal ids are positives of each other.
        label_smoothing: mass spread evenly over a row of the hard targets; softmax only.
        intra_modal: soften the hard targets by the teachers' similarities within a modality.
        row_weights: weight of each sample's loss in both directions, normalised to sum 1.
        divisors: log-divisors of rows and of columns that take the place of the log-sum-exp in
            the contrastive term; no gradient. `distill.losses.FastCLIPLoss` stands on it.
        group: all rows of this process group are one batch. Gradients are right under DDP's
            averaging. Pass `torch.distributed.group.WORLD` for the default group.
        check: verify values (unit rows, finite scale) on any device; the CPU always does,
            except under torch.compile.
        impl: "reference" is N x N, "tiled" and "triton" are O(N d); "auto" looks at device and
            size. "triton" is for NVIDIA GPUs, at the speed of the rows' dtype (pass bfloat16 or
            float16 for the tensor cores' full rate); float64 rows are tiled's.
        exchange: "gather" brings every rank's texts to every rank; "ring" passes them round, so
            that no rank holds all rows.

    Returns:
        Scalars, mean over both directions (softmax) or summed and divided by n (sigmoid).

    Raises:
        ValueError: names the argument and what was expected.
    """
    ranks = None if world_size(group) == 1 else group
    options = Options(
        teacher_weights=teacher_weights,
        kind=kind,
        targets=targets,
        positives=positives,
        label_smoothing=label_smoothing,
        intra_modal=intra_modal,
        row_weights=row_weights,
        divisors=divisors,
        impl=impl,
        exchange=exchange,
        partial=ranks is not None,
    )
    check_arguments(student, teachers, options)
    with torch.autocast(student.image.device.type, enabled=False):
        on_cpu = student.image.device.type == "cpu" and not torch.compiler.is_compiling()
        if check or on_cpu:
            check_values(student, teachers, options)
        problem = normal_form(student, teachers, options)
        name = chosen(impl, problem, grouped=ranks is not None)
        if name != "reference":
            return ImageTextTerms(*image_text_values(problem, name, ranks, exchange))
        if ranks is not None:
            gathered = _gathered(student, teachers, options, ranks)
            problem = normal_form(*gathered)
        return ImageTextTerms(*reference.terms(problem))


def _gathered(
    student: Embeddings,
    teachers: Sequence[Embeddings],
    options: Options,
    group: dist.ProcessGroup,
) -> tuple[Embeddings, list[Embeddings], Options]:
    """Everybody's rows and vectors on every rank."""

    def everybody(vector: Tensor | None) -> Tensor | None:
        return None if vector is None else gather_rows(vector, group)

    divisors = options.divisors
    if divisors is not None:
        divisors = gather_rows(divisors[0], group), gather_rows(divisors[1], group)
    options = replace(
        options,
        positives=everybody(options.positives),
        row_weights=everybody(options.row_weights),
        divisors=divisors,
        partial=False,
    )
    teachers = [gather_embeddings(teacher, group) for teacher in teachers]
    return gather_embeddings(student, group), teachers, options
