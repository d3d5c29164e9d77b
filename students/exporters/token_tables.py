"""Token tables in fewer bytes: only the rows that a text names are made floats again.

A table is most of a small text tower, and the back ends' own quantisers leave it, or need kernels
that not every runtime has. Here a look-up becomes plain steps that all of them have: gather rows,
widen them, multiply by a scale a row.
"""

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, fx

_aten = torch.ops.aten
# The argument that holds an operator's weights.
_WEIGHTS: dict[Any, int] = {
    _aten.embedding.default: 0,
    _aten.linear.default: 1,
    _aten.conv1d.default: 1,
    _aten.conv2d.default: 1,
}


def home(node: fx.Node) -> str | None:
    """Name the module whose weights a layer's node uses; None for what is no layer."""
    place = _WEIGHTS.get(node.target) if node.op == "call_function" else None
    weights = None if place is None else node.args[place]
    if not isinstance(weights, fx.Node) or weights.op != "get_attr":
        return None
    return str(weights.target).rpartition(".")[0]


def tables_as_bytes(module: fx.GraphModule, kept: Collection[str] = ()) -> None:
    """Keep token tables, but for those of the modules `kept`, as int8 with a scale a row."""
    graph = module.graph
    for node in graph.find_nodes(op="call_function", target=_aten.embedding.default):
        where = home(node)
        if where is None or where in kept:
            continue
        table, tokens = constant(module, node.args[0]), node.args[1]
        least = torch.finfo(table.dtype).tiny
        scales = table.abs().amax(dim=1, keepdim=True).clamp(min=least) / 127
        rounded = (table / scales).round().to(torch.int8)
        with graph.inserting_before(node):
            place = add_constant(module, f"{node.name}_rows", rounded)
            rows = graph.call_function(_aten.embedding.default, (place, tokens))
            rows = graph.call_function(_aten.to.dtype, (rows, table.dtype))
            place = add_constant(module, f"{node.name}_scales", scales)
            factors = graph.call_function(_aten.embedding.default, (place, tokens))
            rows = graph.call_function(_aten.mul.Tensor, (rows, factors))
        rows.meta.update(node.meta)
        node.replace_all_uses_with(rows)
        graph.erase_node(node)
    graph.eliminate_dead_code()
    module.recompile()


def constant(module: fx.GraphModule, node: fx.Node) -> Tensor:
    """Return the weights that a node stands for."""
    value = module
    for name in str(node.target).split("."):
        value = getattr(value, name)
    assert isinstance(value, Tensor)
    return value.detach()


def add_constant(module: fx.GraphModule, name: str, values: Tensor) -> fx.Node:
    """Give the module a constant; returns the node that stands for it."""
    module.register_buffer(name, values)
    return module.graph.get_attr(name)
