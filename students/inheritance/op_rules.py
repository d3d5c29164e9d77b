"""What each PyTorch operation does to dimensions: a table of rules for the tracer.

A rule takes the tracer, the operation's arguments and its result, and returns the dimensions of
each result (None for one that is not followed). Batch, token and space dimensions are marked
"data".
"""

import itertools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from students.inheritance.factors import Dim

if TYPE_CHECKING:
    from students.inheritance.tracing import Tracer

Result = list[Sequence[Dim] | None]
Rule = Callable[["Tracer", Sequence[Any], dict[str, Any], Any], Result]

# Their result is the weight itself, seen differently.
KEEPS_ORIGIN = frozenset(
    (
        *("t", "transpose", "permute", "view", "_unsafe_view", "unsqueeze", "squeeze", "expand"),
        *("select", "split", "unbind", "slice", "split_with_sizes"),
        *("clone", "_to_copy", "alias", "detach"),
    )
)


def elementwise(tracer: "Tracer", args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Result:
    """Operands broadcast against each other: what meets is one axis."""
    given = [each for each in args if isinstance(each, Tensor)]
    dims: list[Dim] = []
    for place in range(-out.ndim, 0):
        met = [
            each for each in given if each.ndim >= -place and each.shape[place] == out.shape[place]
        ]
        meeting = [tracer.dims(each)[place] for each in met]
        dims.append(tracer.same(*meeting) if meeting else ())
    return [dims]


def _add(tracer: "Tracer", args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Result:
    """Two activations added are a residual stream, or the branches of one."""
    result = elementwise(tracer, args, kwargs, out)
    moving = [each for each in args if isinstance(each, Tensor) and tracer.origin(each) is None]
    if len(moving) > 1 and result[0]:
        for dim in result[0]:
            tracer.factors.mark(dim, "residual")
    return result


def fallback(name: str) -> Rule:
    """The rule for what has none: equal shape passes dimensions on, all else turns opaque."""

    def rule(tracer: "Tracer", args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Result:
        given = [each for each in args if isinstance(each, Tensor)]
        results = list(out) if isinstance(out, tuple | list) else [out]
        if given and isinstance(results[0], Tensor) and results[0].shape == given[0].shape:
            return [tracer.dims(given[0])]
        if not given:
            return []
        tracer.unread.add(name)
        for each in given:
            for dim in tracer.dims(each):
                tracer.factors.mark(dim, "opaque")
        return [
            [tracer.fresh(size, "opaque") for size in each.shape]
            if isinstance(each, Tensor)
            else None
            for each in results
        ]

    return rule


def _is_data(tracer: "Tracer", dim: Dim) -> bool:
    """Whether a dimension counts samples, tokens or places."""
    leaves = tracer.factors.leaves(dim)
    return all(tracer.factors.marks(leaf) & {"data", "constant"} for leaf in leaves)


def _data(tracer: "Tracer", dim: Dim, size: int) -> Dim:
    """A dimension that an operation changed in length: no harm to data, opaque for all else."""
    if _is_data(tracer, dim):
        return tracer.fresh(size, "data")
    tracer.factors.mark(dim, "opaque")
    return tracer.fresh(size, "opaque")


def _view(tracer: "Tracer", args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Result:
    dims = sum(tracer.dims(args[0]), ())
    parts = tracer.factors.split(dims, list(out.shape))
    if parts is not None:
        return [parts]
    return fallback("view")(tracer, args, kwargs, out)


def _permute(tracer: "Tracer", args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Result:
    dims = tracer.dims(args[0])
    return [[dims[place] for place in args[1]]]


def _transpose(tracer: "Tracer", args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Result:
    dims = list(tracer.dims(args[0]))
    one, other = args[1:] if len(args) > 1 else (0, -1)
    if dims:
        dims[one], dims[other] = dims[other], dims[one]
    return [dims]


def _unsqueeze(tracer: "Tracer", args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Result:
    dims = list(tracer.dims(args[0]))
    dims.insert(args[1] % out.ndim, ())
    return [dims]


def _squeeze(tracer: "Tracer", args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Result:
    dims = tracer.dims(args[0])
    asked = args[1] if len(args) > 1 else range(len(dims))
    places = {p % len(dims) for p in ([asked] if isinstance(asked, int) else asked)}
    shape = args[0].shape
    return [[dim for p, dim in enumerate(dims) if not (p in places and shape[p] == 1)]]


def _expand(tracer: "Tracer", args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Result:
    before, shape = tracer.dims(args[0]), args[0].shape
    dims: list[Dim] = []
    for place in range(-out.ndim, 0):
        same = -place <= len(before) and shape[place] == out.shape[place]
        dims.append(before[place] if same else tracer.fresh(out.shape[place], "data"))
    return [dims]


def _select(tracer: "Tracer", args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Result:
    dims = list(tracer.dims(args[0]))
    tracer.factors.mark(dims.pop(args[1]), "fused")
    return [dims]


def _unbind(tracer: "Tracer", args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Result:
    dims = list(tracer.dims(args[0]))
    tracer.factors.mark(dims.pop(args[1] if len(args) > 1 else 0), "fused")
    return [dims for _ in out]


def _slice(tracer: "Tracer", args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Result:
    dims = list(tracer.dims(args[0]))
    place = args[1] if len(args) > 1 else 0
    if args[0].shape[place] != out.shape[place]:
        dims[place] = _data(tracer, dims[place], out.shape[place])
    return [dims]


def _split(tracer: "Tracer", args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Result:
    """Equal pieces, as of fused qkv, are a factor of their own; unequal ones are not followed."""
    dims = tracer.dims(args[0])
    place = (args[2] if len(args) > 2 else kwargs.get("dim", 0)) % len(dims)
    sizes = [piece.shape[place] for piece in out]
    cut = len(set(sizes)) == 1 and tracer.factors.split(dims[place], [len(sizes), sizes[0]])
    results: Result = []
    for size in sizes:
        if cut:
            tracer.factors.mark(cut[0], "fused")
        piece = cut[1] if cut else _data(tracer, dims[place], size)
        results.append([*dims[:place], piece, *dims[place + 1 :]])
    return results


def _cat(tracer: "Tracer", args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Result:
    parts = [tracer.dims(each) for each in args[0] if each.numel()]
    place = (args[1] if len(args) > 1 else 0) % out.ndim
    dims: list[Dim] = [
        tracer.same(*(part[p] for part in parts)) if p != place else () for p in range(out.ndim)
    ]
    if len(parts) == 1:
        dims[place] = parts[0][place]
    elif all(_is_data(tracer, part[place]) for part in parts):
        dims[place] = tracer.fresh(out.shape[place], "data")
    elif len({each.shape[place] for each in args[0] if each.numel()}) == 1:
        # Equal pieces side by side, as the biases of q, k and v: (pieces, their one axis).
        piece = tracer.same(*(part[place] for part in parts))
        dims[place] = tracer.fresh(len(parts), "fused") + piece
    else:
        for part in parts:
            tracer.factors.mark(part[place], "opaque")
        dims[place] = tracer.fresh(out.shape[place], "opaque")
    return [dims]


def _reduce(tracer: "Tracer", args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Result:
    """Means, sums, maxima: `dim` is the first argument that names dimensions."""
    dims = tracer.dims(args[0])
    asked = next((a for a in args[1:] if isinstance(a, list | tuple)), None)
    if asked is None:
        asked = next((a for a in args[1:] if isinstance(a, int) and not isinstance(a, bool)), None)
        asked = range(len(dims)) if asked is None else [asked]
    gone = {place % len(dims) for place in asked} if dims else set()
    kept: list[Dim] = []
    for place, dim in enumerate(dims):
        if place not in gone:
            kept.append(dim)
            continue
        if not _is_data(tracer, dim):
            tracer.factors.mark(dim, "normalised")
        if isinstance(out, Tensor) and out.ndim == len(dims):
            kept.append(())
    return [kept for _ in (out if isinstance(out, tuple | list) else [out])]


def _places(tracer: "Tracer", args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Result:
    """Pooling, padding, resizing: samples and channels stay, places change."""
    dims, first = tracer.dims(args[0]), out[0] if isinstance(out, tuple | list) else out
    shape = args[0].shape
    kept = [
        dim if shape[p] == first.shape[p] else _data(tracer, dim, first.shape[p])
        for p, dim in enumerate(dims)
    ]
    return [kept]


def _gather_rows(tracer: "Tracer", args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Result:
    """x[i, j] or x[:, i]: neighbouring indexed dimensions become one choice of rows."""
    dims, indices = tracer.dims(args[0]), list(args[1])
    first = sum(1 for _ in itertools.takewhile(lambda each: each is None, indices))
    last = len(indices)
    if any(each is None for each in indices[first:]):
        return fallback("index")(tracer, args, kwargs, out)
    before, rest = dims[:first], dims[last:]
    if last == 1 and len(dims) == 2 and tracer.origin(args[0]) is not None:
        return _embedding(tracer, (args[0], indices[0]), kwargs, out)
    for dim in dims[first:last]:
        if not _is_data(tracer, dim):
            tracer.factors.mark(dim, "opaque")
    sizes = out.shape[first : out.ndim - len(rest)]
    return [[*before, *(tracer.fresh(size, "data") for size in sizes), *rest]]


def _embedding(tracer: "Tracer", args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Result:
    table, ids = args[0], args[1]
    rows, width = tracer.dims(table)
    # A table of positions is looked up by a constant 0..n-1, one of words by what the user gives.
    words = any(
        "data" in tracer.factors.marks(leaf)
        for dim in tracer.dims(ids)
        for leaf in tracer.factors.leaves(dim)
    )
    tracer.factors.mark(rows, "vocabulary" if words else "position")
    return [[*(tracer.fresh(size, "data") for size in ids.shape), width]]


def _stack(tracer: "Tracer", args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Result:
    parts = [tracer.dims(each) for each in args[0]]
    dims = [tracer.same(*met) for met in zip(*parts, strict=True)]
    place = (args[1] if len(args) > 1 else 0) % out.ndim
    dims.insert(place, tracer.fresh(len(parts), "constant"))
    return [dims]


RULES: dict[str, Rule] = {
    **dict.fromkeys(("view", "_unsafe_view", "reshape", "_reshape_alias"), _view),
    **dict.fromkeys(("transpose", "t"), _transpose),
    **dict.fromkeys(("split", "split_with_sizes"), _split),
    **dict.fromkeys(("mean", "sum", "amax", "amin", "linalg_vector_norm", "argmax"), _reduce),
    **dict.fromkeys(("any", "all", "var_mean", "std_mean", "var", "prod", "max"), _reduce),
    **dict.fromkeys(("avg_pool2d", "_adaptive_avg_pool2d", "adaptive_avg_pool2d"), _places),
    **dict.fromkeys(("max_pool2d_with_indices", "constant_pad_nd"), _places),
    **dict.fromkeys(("upsample_bilinear2d", "upsample_bicubic2d", "upsample_nearest2d"), _places),
    "add": _add,
    "permute": _permute,
    "unsqueeze": _unsqueeze,
    "squeeze": _squeeze,
    "expand": _expand,
    "select": _select,
    "unbind": _unbind,
    "slice": _slice,
    "cat": _cat,
    "stack": _stack,
    "index": _gather_rows,
    "embedding": _embedding,
}
