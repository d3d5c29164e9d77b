"""From the arguments of `image_text_loss` to a `Problem`: checks, and the normal form.

Everything becomes one shape here, so that no implementation knows about teachers, modalities or
optional arguments: a teacher is a `Source`; the mean of logits is one source of concatenated rows;
a modality's similarities are a source whose both sides are the same rows. Shapes and names are
always checked; values only where reading them costs no synchronisation, or when asked.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from distill.ops.image_text.problem import Problem, Source
from teachers.contract import Embeddings


@dataclass(frozen=True, kw_only=True)
class IntraModal:
    """Hard targets softened by the teachers' similarities within a modality (SoftCLIP).

    Attributes:
        mix: share the softened targets take from the hard ones, in (0, 1].
        scale: factor on the cosines; each teacher's own logit scale when None.
    """

    mix: float = 0.3
    scale: float | None = None

    def __post_init__(self) -> None:
        """Refuse shares outside (0, 1] and factors that are not positive."""
        if not 0 < self.mix <= 1:
            raise ValueError(f"intra_modal.mix must be in (0, 1], got {self.mix}")
        if self.scale is not None and not 0 < self.scale < math.inf:
            raise ValueError(f"intra_modal.scale must be positive and finite, got {self.scale}")


@dataclass(frozen=True, kw_only=True)
class Options:
    """The arguments of one call beside student and teachers; see `image_text_loss`."""

    teacher_weights: Sequence[float] | None = None
    kind: str = "softmax"
    targets: str = "mean_prob"
    positives: Int64[Tensor, " n"] | None = None
    label_smoothing: float = 0.0
    intra_modal: IntraModal | None = None
    row_weights: Float[Tensor, " n"] | None = None
    divisors: tuple[Float[Tensor, " n"], Float[Tensor, " n"]] | None = None
    exchange: str = "gather"
    impl: str = "auto"
    partial: bool = False


def check_arguments(student: Embeddings, teachers: Sequence[Embeddings], options: Options) -> None:
    """Raise on anything that shapes and names alone can tell; costs no synchronisation."""
    for name, known in (
        ("kind", ("softmax", "sigmoid")),
        ("targets", ("mean_prob", "mean_logit")),
        ("exchange", ("gather", "ring")),
        ("impl", ("auto", "reference", "tiled", "triton")),
    ):
        if getattr(options, name) not in known:
            raise ValueError(f"{name} must be one of {known}, got {getattr(options, name)!r}")
    for name, model in [("student", student), *_named(teachers)]:
        _check_model(name, model, student.image, options.kind)
    _check_vectors(student.image.shape[0], options)
    _check_combinations(teachers, options)


def _check_model(name: str, model: Embeddings, like: Tensor, kind: str) -> None:
    n = like.shape[0]
    if model.image.shape != model.text.shape or model.image.ndim != 2 or 0 in model.image.shape:
        raise ValueError(
            f"{name}: image and text must both be (n, d), n and d at least 1, got "
            f"{tuple(model.image.shape)} and {tuple(model.text.shape)}"
        )
    if model.image.shape[0] != n:
        raise ValueError(f"{name} has {model.image.shape[0]} rows, the student has {n}")
    for part in ("image", "text"):
        rows = getattr(model, part)
        if not rows.dtype.is_floating_point or rows.device != like.device:
            raise ValueError(
                f"{name}.{part} must be floating point on {like.device}, "
                f"got {rows.dtype} on {rows.device}"
            )
    for part, value in (("logit_scale", model.logit_scale), ("logit_bias", model.logit_bias)):
        if value is not None and value.numel() != 1:
            raise ValueError(f"{name}.{part} must be a scalar, got {tuple(value.shape)}")
    if kind == "sigmoid" and model.logit_bias is None:
        raise ValueError(f"kind='sigmoid' needs {name}.logit_bias, which is None")


def _check_vectors(n: int, options: Options) -> None:
    divisors = options.divisors or (None, None)
    if len(divisors) != 2:
        raise ValueError(f"divisors must be (rows, columns), got {len(divisors)} tensors")
    for name, vector in (
        ("positives", options.positives),
        ("row_weights", options.row_weights),
        ("divisors[0]", divisors[0]),
        ("divisors[1]", divisors[1]),
    ):
        if vector is not None and vector.shape != (n,):
            raise ValueError(f"{name} must be ({n},), got {tuple(vector.shape)}")
    positives = options.positives
    if positives is not None and positives.dtype != torch.int64:
        raise ValueError(f"positives must be int64 ids, got {positives.dtype}")


def _check_combinations(teachers: Sequence[Embeddings], options: Options) -> None:
    smoothing, weights, sigmoid = (
        options.label_smoothing,
        options.teacher_weights,
        options.kind == "sigmoid",
    )
    if not 0 <= smoothing < 1 or (smoothing and sigmoid):
        raise ValueError(
            f"label_smoothing must be in [0, 1) and 0 for kind='sigmoid', got {smoothing}"
        )
    if weights is not None and (
        len(weights) != len(teachers)
        or not all(0 <= weight < math.inf for weight in weights)
        or not any(weights)
    ):
        raise ValueError(
            f"teacher_weights must be {len(teachers)} numbers >= 0, not all 0, got {list(weights)}"
        )
    if options.intra_modal is not None and (sigmoid or not teachers):
        raise ValueError("intra_modal needs kind='softmax' and at least one teacher")
    if options.divisors is not None and (sigmoid or smoothing or options.intra_modal is not None):
        raise ValueError(
            "divisors need kind='softmax', label_smoothing=0 and intra_modal=None: they replace "
            "the softmax that those soften"
        )


def _named(teachers: Sequence[Embeddings]) -> list[tuple[str, Embeddings]]:
    return [(f"teachers[{k}]", teacher) for k, teacher in enumerate(teachers)]


def check_values(student: Embeddings, teachers: Sequence[Embeddings], options: Options) -> None:
    """Raise on rows that are not unit vectors, scales not finite, weights not usable.

    Rows that are not finite pass: they make a loss that is not finite, which a trainer can skip.
    """
    for name, model in [("student", student), *_named(teachers)]:
        for part, rows in (("image", model.image), ("text", model.text)):
            norms = rows.detach().float().norm(dim=1)
            away = (norms - 1).abs().nan_to_num(0.0, posinf=0.0)
            if torch.any(away >= 1e-2):
                worst = norms[away.argmax()].item()
                raise ValueError(f"{name}.{part} must have unit rows; a row has norm {worst:.4g}")
        for part, value in (("logit_scale", model.logit_scale), ("logit_bias", model.logit_bias)):
            if value is not None and not torch.isfinite(value).all():
                raise ValueError(f"{name}.{part} must be finite, got {value.item()}")
    weights = options.row_weights
    if weights is not None:
        usable = torch.isfinite(weights).all() and (weights >= 0).all()
        # Of several processes, one may hold nothing but zeros.
        usable = usable and (options.partial or weights.any())
        if not usable:
            raise ValueError("row_weights must be finite and >= 0, not all 0")


def normal_form(student: Embeddings, teachers: Sequence[Embeddings], options: Options) -> Problem:
    """Write one process's rows as a `Problem`; shares and counts are those of these rows alone.

    With `options.partial` the rows are a part of the batch and shares are left as weights.
    """
    dtype = torch.promote_types(student.image.dtype, student.text.dtype)
    high = torch.promote_types(dtype, torch.float32)
    image, text = student.image.to(dtype), student.text.to(dtype)
    n, ids, weights = image.shape[0], options.positives, options.row_weights
    ones = torch.ones(n, dtype=high, device=image.device)
    share = ones if weights is None else weights.detach().to(high)
    if not options.partial:
        share = share / (n if weights is None else share.sum())
    divisors = options.divisors or (None, None)
    row_divisor, column_divisor = (d if d is None else d.detach().to(high) for d in divisors)
    positives = ones if ids is None else count_positives(ids, ids).to(high)
    mix = 0.0 if options.intra_modal is None else options.intra_modal.mix
    return Problem(
        image=image,
        text=text,
        logit_scale=student.logit_scale.to(high).reshape(()),
        logit_bias=_bias(student, high),
        sources=_sources(teachers, options, high),
        kind="sigmoid" if options.kind == "sigmoid" else "softmax",
        batch=n,
        row_share=share,
        column_share=share,
        row_ids=ids,
        column_ids=ids,
        row_positives=positives,
        column_positives=positives,
        label_smoothing=options.label_smoothing,
        mix=mix,
        row_divisor=row_divisor,
        column_divisor=column_divisor,
    )


def count_positives(
    ids: Int64[Tensor, " n"], everybody: Int64[Tensor, " m"]
) -> Int64[Tensor, " n"]:
    """How often each id occurs among everybody's, without an n x m comparison."""
    ordered = everybody.sort().values
    last = torch.searchsorted(ordered, ids, right=True)
    return last - torch.searchsorted(ordered, ids)


def _bias(model: Embeddings, dtype: torch.dtype) -> Float[Tensor, ""]:
    if model.logit_bias is None:
        return torch.zeros((), dtype=dtype, device=model.image.device)
    return model.logit_bias.to(dtype).reshape(())


def _sources(
    teachers: Sequence[Embeddings], options: Options, dtype: torch.dtype
) -> tuple[Source, ...]:
    """Teachers across modalities, then, where asked, within images and within texts."""
    if not teachers:
        return ()
    raw = [float(weight) for weight in options.teacher_weights or [1.0] * len(teachers)]
    weights = [weight / sum(raw) for weight in raw]
    teachers = [t._replace(image=t.image.detach(), text=t.text.detach()) for t in teachers]
    across = [
        Source(
            left=teacher.image,
            right=teacher.text,
            scale=teacher.logit_scale.detach().to(dtype).reshape(()),
            bias=_bias(teacher, dtype).detach(),
            row_weight=weight,
            column_weight=weight,
        )
        for teacher, weight in zip(teachers, weights, strict=True)
    ]
    groups, soft = [across], options.intra_modal
    if soft is not None:
        groups.append([_within(s, s.left, soft, (s.row_weight, 0.0)) for s in across])
        groups.append([_within(s, s.right, soft, (0.0, s.row_weight)) for s in across])
    if options.targets == "mean_logit":
        groups = [[_mean_logit(group, weights, dtype)] for group in groups]
    return tuple(source for group in groups for source in group)


def _within(across: Source, rows: Tensor, soft: IntraModal, weights: tuple[float, float]) -> Source:
    """A teacher's similarities within one modality, as softening of the contrastive targets."""
    scale = across.scale if soft.scale is None else torch.full_like(across.scale, soft.scale)
    return Source(
        left=rows,
        right=rows,
        scale=scale,
        bias=torch.zeros_like(across.bias),
        row_weight=soft.mix * weights[0],
        column_weight=soft.mix * weights[1],
        contrastive=True,
    )


def _mean_logit(group: list[Source], weights: list[float], dtype: torch.dtype) -> Source:
    """One source whose logits are the weighted mean: scaled rows, concatenated."""
    pairs = list(zip(group, weights, strict=True))
    return Source(
        left=torch.cat([w * s.scale * s.left.to(dtype) for s, w in pairs], dim=1),
        right=torch.cat([s.right.to(dtype) for s in group], dim=1),
        scale=torch.ones_like(group[0].scale),
        bias=torch.stack([w * s.bias for s, w in pairs]).sum(),
        row_weight=sum(s.row_weight for s in group),
        column_weight=sum(s.column_weight for s in group),
        contrastive=group[0].contrastive,
    )
