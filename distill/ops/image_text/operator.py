"""`image_text_loss` as two torch operators, so that compilers see through autograd and autocast.

`torch.library.custom_op` with fakes and autograd: no graph break under `torch.compile`, and what
an implementation does inside (tiles, kernels, collectives) is its own business. An operator takes
only tensors, numbers and strings; `Call` is that flat form of a `Problem` over one's own rows.

The backward operator returns all gradients. For the hard sigmoid loss without a group the
forward one already made them, in the same sweep; backward then only scales.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor

from distill.ops.image_text import distributed
from distill.ops.image_text.problem import (
    Gradients,
    Problem,
    Source,
    Statistics,
    pack,
    terms,
    unpack,
)
from distill.ops.image_text.sweeps import sweeps_of


class Call(NamedTuple):
    """A whole `Problem`, flat; field order is the operators' argument order.

    `sources` are four tensors each (left, right, scale, bias), `weights` three numbers each (by
    row, by column, whether contrastive). `share` and `positives` serve rows and columns alike.
    With `group` (a process group's name) `share` is not yet normalised and `positives` not read.
    """

    image: Tensor
    text: Tensor
    logit_scale: Tensor
    logit_bias: Tensor
    sources: Sequence[Tensor]
    share: Tensor
    positives: Tensor
    ids: Tensor | None
    row_divisor: Tensor | None
    column_divisor: Tensor | None
    weights: Sequence[float]
    kind: str
    label_smoothing: float
    mix: float
    impl: str
    group: str
    exchange: str

    @classmethod
    def of(cls, problem: Problem, impl: str, group: str, exchange: str) -> "Call":
        """Flatten a problem over one's own rows."""
        sources, weights = [], []
        for source in problem.sources:
            sources += [source.left, source.right, source.scale, source.bias]
            weights += [source.row_weight, source.column_weight, float(source.contrastive)]
        return cls(
            *(problem.image, problem.text, problem.logit_scale, problem.logit_bias),
            *(sources, problem.row_share, problem.row_positives, problem.row_ids),
            *(problem.row_divisor, problem.column_divisor, weights, problem.kind),
            *(problem.label_smoothing, problem.mix, impl, group, exchange),
        )

    def problem(self) -> Problem:
        """Undo `of`."""
        sources = tuple(
            Source(
                left=self.sources[4 * k],
                right=self.sources[4 * k + 1],
                scale=self.sources[4 * k + 2],
                bias=self.sources[4 * k + 3],
                row_weight=self.weights[3 * k],
                column_weight=self.weights[3 * k + 1],
                contrastive=bool(self.weights[3 * k + 2]),
            )
            for k in range(len(self.sources) // 4)
        )
        return Problem(
            image=self.image,
            text=self.text,
            logit_scale=self.logit_scale,
            logit_bias=self.logit_bias,
            sources=sources,
            kind="sigmoid" if self.kind == "sigmoid" else "softmax",
            batch=self.image.shape[0],
            row_share=self.share,
            column_share=self.share,
            row_ids=self.ids,
            column_ids=self.ids,
            row_positives=self.positives,
            column_positives=self.positives,
            label_smoothing=self.label_smoothing,
            mix=self.mix,
            row_divisor=self.row_divisor,
            column_divisor=self.column_divisor,
        )

    @property
    def in_one_sweep(self) -> bool:
        """Whether the forward operator can make the gradients."""
        return self.kind == "sigmoid" and not self.sources and not self.group


@torch.library.custom_op("distill::image_text_values", mutates_args=())
def _values(
    image: Tensor,
    text: Tensor,
    logit_scale: Tensor,
    logit_bias: Tensor,
    sources: Sequence[Tensor],
    share: Tensor,
    positives: Tensor,
    ids: Tensor | None,
    row_divisor: Tensor | None,
    column_divisor: Tensor | None,
    weights: Sequence[float],
    kind: str,
    label_smoothing: float,
    mix: float,
    impl: str,
    group: str,
    exchange: str,
    differentiate: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Two values; packed statistics of rows and columns; gradients if made in the same sweep."""
    call = Call(
        *(image, text, logit_scale, logit_bias, sources, share, positives, ids, row_divisor),
        *(column_divisor, weights, kind, label_smoothing, mix, impl, group, exchange),
    )
    problem, sweeps, early = call.problem(), sweeps_of(impl), None
    with torch.autocast(image.device.type, enabled=False):
        if group:
            values, statistics = distributed.values(problem, sweeps, _resolve(group), exchange)
        elif differentiate and call.in_one_sweep:
            statistics, early = sweeps.one_sweep(problem)
            values = terms(problem, statistics)
        else:
            statistics = sweeps.statistics(problem)
            values = terms(problem, statistics)
    rows, columns = (pack(side) for side in (statistics.rows, statistics.columns))
    if early is None:
        image, text, scalars = (values[0].new_empty(0) for _ in range(3))
        return torch.stack(values), rows, columns, image, text, scalars
    scalars = torch.stack([early.logit_scale, early.logit_bias])
    return torch.stack(values), rows, columns, early.image, early.text, scalars


@torch.library.custom_op("distill::image_text_gradients", mutates_args=())
def _gradients(
    image: Tensor,
    text: Tensor,
    logit_scale: Tensor,
    logit_bias: Tensor,
    sources: Sequence[Tensor],
    share: Tensor,
    positives: Tensor,
    ids: Tensor | None,
    row_divisor: Tensor | None,
    column_divisor: Tensor | None,
    weights: Sequence[float],
    kind: str,
    label_smoothing: float,
    mix: float,
    impl: str,
    group: str,
    exchange: str,
    rows: Tensor,
    columns: Tensor,
    grad_values: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of image, text, and (scale, bias), in the rows' and the scalars' dtypes."""
    call = Call(
        *(image, text, logit_scale, logit_bias, sources, share, positives, ids, row_divisor),
        *(column_divisor, weights, kind, label_smoothing, mix, impl, group, exchange),
    )
    problem, sweeps, k = call.problem(), sweeps_of(impl), len(weights) // 3
    statistics = Statistics(unpack(rows, k), unpack(columns, k), grad_values.new_zeros(2))
    grads = grad_values[0], grad_values[1]
    with torch.autocast(image.device.type, enabled=False):
        if group:
            ranks = _resolve(group)
            found = distributed.gradients(problem, statistics, grads, sweeps, ranks, exchange)
        else:
            found = sweeps.gradients(problem, statistics, *grads)
    return _as_inputs(found, image)


def _as_inputs(found: Gradients, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    scalars = torch.stack([found.logit_scale, found.logit_bias])
    return found.image.to(image.dtype), found.text.to(image.dtype), scalars


@_values.register_fake
def _(
    image,
    text,
    logit_scale,
    logit_bias,
    sources,
    share,
    positives,
    ids,
    row_divisor,
    column_divisor,
    weights,
    kind,
    label_smoothing,
    mix,
    impl,
    group,
    exchange,
    differentiate,
):
    n, packed = image.shape[0], 4 + 2 * (len(sources) // 4)
    sides = (logit_scale.new_empty(packed, n) for _ in range(2))
    made = differentiate and kind == "sigmoid" and not sources and not group
    early = (share.new_empty(x.shape if made else (0,)) for x in (image, text))
    return share.new_empty(2), *sides, *early, share.new_empty(2 if made else 0)


@_gradients.register_fake
def _(image, text, logit_scale, *_rest):
    return torch.empty_like(image), torch.empty_like(text), logit_scale.new_empty(2)


def _remember(ctx, inputs, output) -> None:
    """Keep the call and its statistics, or the gradients where they are there already."""
    *flat, _differentiate = inputs
    call = Call(*flat)
    _, rows, columns, *early = output
    ctx.call = call._replace(sources=[], **dict.fromkeys(_TENSORS))
    ctx.present = [getattr(call, name) is not None for name in _TENSORS]
    tensors = [getattr(call, name) for name in _TENSORS if getattr(call, name) is not None]
    ctx.save_for_backward(rows, columns, *early, *tensors, *call.sources)


_TENSORS = (
    *("image", "text", "logit_scale", "logit_bias", "share", "positives"),
    *("ids", "row_divisor", "column_divisor"),
)


def _differentiate(ctx, grad_values, *_unused):
    """Image, text, scale and bias; everything else of a call is data."""
    (
        rows,
        columns,
        *early,
    ) = ctx.saved_tensors[:5]
    rest = list(ctx.saved_tensors[5:])
    tensors = {
        name: rest.pop(0) if there else None
        for name, there in zip(_TENSORS, ctx.present, strict=True)
    }
    call = ctx.call._replace(sources=rest, **tensors)
    if early[2].numel():
        image, text, scalars = (part * grad_values[0] for part in early)
        image, text = image.to(call.image.dtype), text.to(call.image.dtype)
    else:
        image, text, scalars = _gradients(*call, rows, columns, grad_values)
    found = (image, text, scalars[0], scalars[1])
    # A list of tensors takes a list, and torch takes an empty list of numbers for one.
    weights = None if call.weights else []
    return *found, [None] * len(rest), *[None] * 5, weights, *[None] * 7


_values.register_autograd(_differentiate, setup_context=_remember)


def image_text_values(
    problem: Problem, impl: str, group: dist.ProcessGroup | None, exchange: str
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Contrastive and affinity of one's own rows, with gradients; see `problem.py`."""
    name = "" if group is None else group.group_name
    call = Call.of(problem, impl, name, exchange)
    differentiate = torch.is_grad_enabled() and any(x.requires_grad for x in call[:4])
    values = _values(*call, differentiate)[0]
    return values[0], values[1]


def _resolve(group: str) -> dist.ProcessGroup:
    return dist.distributed_c10d._resolve_process_group(dist.distributed_c10d.GroupName(group))
