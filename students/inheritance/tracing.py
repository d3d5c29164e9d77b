"""Run an encoder once and see which dimensions of its weights are the same axis.

Watches PyTorch's own operations (`TorchDispatchMode`), so any module is understood by what it
computes, whatever library it comes from: open_clip's fused attention, timm's, grouped convolutions
with more outputs than inputs (FastViT), BatchNorm statistics, layer scales. Nothing is assumed
from names. On the meta device a trace costs no arithmetic and no memory.

What no rule covers marks its axes "opaque": they are inherited only at equal size.
"""

import copy
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, no_type_check

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from students.inheritance.factors import Dim, Factors
from students.inheritance.op_rules import KEEPS_ORIGIN, RULES, elementwise, fallback
from students.inheritance.product_rules import PRODUCT_RULES

Listener = Callable[[str, str, Tensor, int], None]


@dataclass(frozen=True, kw_only=True)
class Trace:
    """What one run of one encoder showed.

    Attributes:
        factors: the axes.
        dims: state-dict key -> one dimension each; only of tensors that the run used.
        summed: (key, dimension) pairs: the tensor is summed over it (a matrix's input side).
        norms: keys of the LayerNorms' weights.
        output: the embedding's dimension.
        unread: what no rule covered, as operation names.
    """

    factors: Factors
    dims: dict[str, tuple[Dim, ...]]
    summed: frozenset[tuple[str, int]]
    norms: frozenset[str]
    output: Dim
    unread: frozenset[str]


@no_type_check  # as Factors
class Tracer(TorchDispatchMode):
    """Follows dimensions from operation to operation.

    Args:
        module: the dual encoder whose tensors are followed.
        listener: told (what, key, activation, dimension) at every matrix product or convolution
            with a weight ("product") and at every LayerNorm ("norm"); for measuring.
    """

    def __init__(self, module: nn.Module, listener: Listener | None = None) -> None:
        """Give every tensor of the state dict dimensions of its own."""
        super().__init__()
        self.factors = Factors()
        self.unread: set[str] = set()
        self.touched: set[str] = set()
        self.norms: set[str] = set()
        self._listener = listener
        self._dims: dict[int, tuple[Dim, ...]] = {}
        self._origin: dict[int, str] = {}
        # Ids are only good while their tensors live.
        self._alive: list[Tensor] = []
        self._summed: list[tuple[str, Dim]] = []
        self.own: dict[str, Tensor] = {}
        for key, tensor in module.state_dict(keep_vars=True).items():
            if id(tensor) not in self._dims:
                self.assign(tensor, [self.factors.new(size) for size in tensor.shape])
                self._origin[id(tensor)] = key
                self.own[key] = tensor

    def assign(self, tensor: Tensor, dims: Sequence[Dim]) -> None:
        """Say what a tensor's dimensions are."""
        assert len(dims) == tensor.ndim, (tensor.shape, dims)
        self._dims[id(tensor)] = tuple(dims)
        self._alive.append(tensor)

    def dims(self, tensor: Tensor) -> tuple[Dim, ...]:
        """A tensor's dimensions; one never seen is a constant of the module's own making."""
        if id(tensor) not in self._dims:
            self.assign(tensor, [self.factors.new(size, "constant") for size in tensor.shape])
        return self._dims[id(tensor)]

    def origin(self, tensor: Tensor) -> str | None:
        """The key of the weight that a tensor is, or is a view of."""
        return self._origin.get(id(tensor))

    def same(self, *dims: Dim) -> Dim:
        """Declare dimensions one; those that cannot be become opaque."""
        first, *rest = dims
        for other in rest:
            if not self.factors.merge(first, other):
                self.factors.mark((*first, *other), "opaque")
        return first

    def fresh(self, size: int, *marks: str) -> Dim:
        """Return a new dimension."""
        return self.factors.new(size, *marks)

    def product(self, weight: Tensor, over: Dim, activation: Tensor | None, at: int) -> None:
        """Note that a weight was summed over a dimension, and what it met there."""
        key = self.origin(weight)
        if key is not None:
            self._summed.append((key, over))
            if activation is not None:
                self.tell("product", key, activation, at)

    def tell(self, what: str, key: str, activation: Tensor, at: int) -> None:
        """Let the listener look at an activation."""
        if self._listener is not None:
            self._listener(what, key, activation, at)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Compute, then work out what the result's dimensions are."""
        given = [each for each in _tensors(args) if isinstance(each, Tensor)]
        self.touched.update(self._origin[id(each)] for each in given if id(each) in self._origin)
        before = [self.dims(each) for each in given]  # constants get their dimensions here
        out = func(*args, **(kwargs or {}))
        del before
        name = func.name().removeprefix("aten::").split(".")[0].removesuffix("_")
        rule = RULES.get(name) or PRODUCT_RULES.get(name)
        if rule is None:
            rule = elementwise if torch.Tag.pointwise in func.tags else fallback(name)
        dims = rule(self, args, kwargs or {}, out)
        for tensor, dim in zip(_tensors(out), dims, strict=False):
            if isinstance(tensor, Tensor) and dim is not None:
                self.assign(tensor, dim)
                origin = self.origin(given[0]) if given and name in KEEPS_ORIGIN else None
                if origin is not None:
                    self._origin[id(tensor)] = origin
        return out

    def finish(self, output: Tensor) -> Trace:
        """Resolve everything that was seen."""
        leaves = self.factors.leaves
        embed = leaves(self.dims(output)[-1])
        self.factors.mark(embed, "embed")
        return Trace(
            factors=self.factors,
            dims={
                key: tuple(leaves(dim) for dim in self.dims(tensor))
                for key, tensor in self.own.items()
                if key in self.touched
            },
            summed=frozenset((key, self._place(key, over)) for key, over in self._summed),
            norms=frozenset(self.norms),
            output=embed,
            unread=frozenset(self.unread),
        )

    def _place(self, key: str, over: Dim) -> int:
        """Which dimension of a weight a sum ran over.

        A square matrix may have one axis twice: before anything was resolved they differ.
        """
        dims = self.dims(self.own[key])
        if over in dims:
            return dims.index(over)
        resolved = self.factors.leaves(over)
        return max(at for at, dim in enumerate(dims) if self.factors.leaves(dim) == resolved)


def _tensors(values: Any) -> list[Any]:
    """Tensors among arguments or results, one level of lists deep; others only hold a place."""
    found: list[Any] = []
    for value in values if isinstance(values, tuple | list) else [values]:
        found += list(value) if isinstance(value, tuple | list) else [value]
    return found


def trace(module: nn.Module, method: str, inputs: Tensor) -> Trace:
    """Trace one encoder on a copy of `module` without data; the module stays as it is.

    Args:
        module: the dual encoder.
        method: "encode_image" or "encode_text".
        inputs: one input, `(1, 3, size, size)` pixels or `(1, context)` token ids.

    Raises:
        ValueError: when the encoder does not run on such an input.
    """
    try:
        return _run(_hollow(module), method, inputs.to("meta"))
    except (NotImplementedError, RuntimeError, AssertionError):
        # Some modules branch on values, which the meta device has none of.
        pass
    try:
        return _run(module, method, inputs)
    except (RuntimeError, AssertionError, TypeError) as error:
        raise ValueError(
            f"{type(module).__name__}.{method} does not run on a {tuple(inputs.shape)} input, so "
            f"what its weights' axes are cannot be seen: {error}"
        ) from error


def _run(module: nn.Module, method: str, inputs: Tensor) -> Trace:
    with watching(module, inputs) as tracer:
        output = getattr(module, method)(inputs)
    return tracer.finish(output)


@contextmanager
def watching(module: nn.Module, inputs: Tensor, listener: Listener | None = None):
    """Trace what happens inside, in evaluation mode and without PyTorch's fused shortcuts."""
    tracer = Tracer(module, listener)
    marks = ("data", "pixels", "data", "data") if inputs.ndim == 4 else ("data", "data")
    dims = [tracer.fresh(size, m) for size, m in zip(inputs.shape, marks, strict=True)]
    tracer.assign(inputs, dims)
    modes = {part: part.training for part in module.modules()}
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    module.eval()
    try:
        with torch.no_grad(), tracer:
            yield tracer
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for part, mode in modes.items():
            part.training = mode


def _hollow(module: nn.Module) -> nn.Module:
    """Copy a module's structure; its tensors have shapes and no data."""
    memo: dict[int, Any] = {}
    for tensor in (*module.parameters(), *module.buffers()):
        empty = tensor.detach().to("meta")
        memo[id(tensor)] = nn.Parameter(empty) if isinstance(tensor, nn.Parameter) else empty
    return copy.deepcopy(module, memo)
