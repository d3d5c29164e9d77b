"""The operations that end an axis or norm it: matrix products, convolutions, attention, norms."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from students.inheritance.factors import Dim
from students.inheritance.op_rules import Result, Rule, fallback

if TYPE_CHECKING:
    from students.inheritance.tracing import Tracer


def _mm(tracer: "Tracer", args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Result:
    left, right = args
    one, other = tracer.dims(left), tracer.dims(right)
    over = tracer.same(one[-1], other[-2])
    # Of two weights (a learned query and its matrix) the right one reads what the left one is.
    if tracer.origin(right) is not None:
        tracer.product(right, other[-2], left, left.ndim - 1)
    else:
        tracer.product(left, one[-1], right, right.ndim - 2)
    batch = [tracer.same(*pair) for pair in zip(one[:-2], other[:-2], strict=True)]
    if tracer.origin(left) is None and tracer.origin(right) is None:
        _mark_attention(tracer, batch, over, other[-1])
    return [[*batch, one[-2], other[-1]]]


def _mark_attention(tracer: "Tracer", batch: list[Dim], over: Dim, last: Dim) -> None:
    """Two activations multiplied: the batch holds heads, the rest of an attention their width."""
    for dim in batch:
        _mark_units(tracer, dim, "heads")
    _mark_units(tracer, over, "head_width")
    _mark_units(tracer, last, "head_width")


def _mark_units(tracer: "Tracer", dim: Dim, mark: str) -> None:
    units = [
        leaf for leaf in tracer.factors.leaves(dim) if "data" not in tracer.factors.marks(leaf)
    ]
    tracer.factors.mark(units, mark)


def _addmm(tracer: "Tracer", args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Result:
    bias, left, right = args[:3]
    (dims,) = _mm(tracer, (left, right), kwargs, out)
    assert dims is not None
    theirs = tracer.dims(bias)
    for place in range(-len(theirs), 0):
        if bias.shape[place] == out.shape[place]:
            tracer.same(dims[place], theirs[place])
    return [dims]


def _attention(tracer: "Tracer", args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Result:
    """The fused operations: query, key, value (batch, heads, tokens, width)."""
    query, key, value = (tracer.dims(each) for each in args[:3])
    if len(query) != 4:
        return fallback("scaled_dot_product_attention")(tracer, args, kwargs, out)
    batch = [tracer.same(*met) for met in zip(query[:2], key[:2], value[:2], strict=True)]
    tracer.same(key[2], value[2])
    width = tracer.same(query[3], key[3])
    _mark_attention(tracer, batch[1:], width, value[3])
    return [[*batch, query[2], value[3]]]


def _convolution(tracer: "Tracer", args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Result:
    """Groups split both sides: output channel g * k + j belongs to input group g."""
    x, weight, bias, stride = args[:4]
    transposed, groups = args[6], args[8]
    dims, kernel = tracer.dims(x), tracer.dims(weight)
    if transposed:
        return fallback("transposed convolution")(tracer, args, kwargs, out)
    shape = weight.shape
    inside = tracer.factors.split(dims[1], [groups, x.shape[1] // groups])
    outside = tracer.factors.split(kernel[0], [groups, shape[0] // groups])
    if inside is None or outside is None:
        return fallback("convolution")(tracer, args, kwargs, out)
    tracer.same(inside[0], outside[0])
    tracer.same(inside[1], kernel[1])
    tracer.product(weight, kernel[1], x if groups == 1 else None, 1)
    patches = tuple(stride) == tuple(shape[2:]) and shape[2] > 1
    for dim in kernel[2:]:
        tracer.factors.mark(dim, "patch" if patches else "kernel")
    if isinstance(bias, Tensor):
        tracer.same(kernel[0], tracer.dims(bias)[0])
    places = [tracer.fresh(size, "data") for size in out.shape[2:]]
    return [[dims[0], kernel[0], *places]]


def _batch_norm(tracer: "Tracer", args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Result:
    dims = tracer.dims(args[0])
    for each in args[1:5]:
        if isinstance(each, Tensor):
            tracer.same(dims[1], tracer.dims(each)[0])
    return [dims]


def _layer_norm(tracer: "Tracer", args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Result:
    x, normed = args[0], args[1]
    dims = tracer.dims(x)
    last = dims[len(dims) - len(normed) :]
    for each in args[2:4]:
        if isinstance(each, Tensor):
            for mine, theirs in zip(last, tracer.dims(each), strict=True):
                tracer.same(mine, theirs)
    for dim in last:
        tracer.factors.mark(dim, "normalised")
    weight = args[2]
    key = tracer.origin(weight) if isinstance(weight, Tensor) else None
    if key is not None and len(normed) == 1:
        tracer.norms.add(key)
        tracer.tell("norm", key, x, x.ndim - 1)
    return [dims]


def _group_norm(tracer: "Tracer", args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Result:
    """One group is a LayerNorm over channels and places; several cut the channels."""
    dims, groups = tracer.dims(args[0]), args[6]
    for each in args[1:3]:
        if isinstance(each, Tensor):
            tracer.same(dims[1], tracer.dims(each)[0])
    tracer.factors.mark(dims[1], "normalised" if groups == 1 else "opaque")
    return [dims]


PRODUCT_RULES: dict[str, Rule] = {
    "mm": _mm,
    "bmm": _mm,
    "addmm": _addmm,
    "convolution": _convolution,
    "_scaled_dot_product_flash_attention_for_cpu": _attention,
    "_scaled_dot_product_flash_attention": _attention,
    "_scaled_dot_product_efficient_attention": _attention,
    "_scaled_dot_product_cudnn_attention": _attention,
    "_scaled_dot_product_fused_attention_overrideable": _attention,
    **dict.fromkeys(("native_batch_norm", "_native_batch_norm_legit_no_training"), _batch_norm),
    **dict.fromkeys(("cudnn_batch_norm", "_native_batch_norm_legit"), _batch_norm),
    "native_layer_norm": _layer_norm,
    "native_group_norm": _group_norm,
}
