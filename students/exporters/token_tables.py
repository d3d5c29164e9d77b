"""Token tables in fewer bytes: only the rows that a text names are made floats again.

A table is most of a small text tower, and the back ends' own quantisers leave it, or need kernels
that not every runtime has. Here a look-up becomes plain steps that all of them have: gather rows,
widen them, multiply by their scales. Two 4-bit numbers share a byte, and arithmetic parts them:
bit operations are not in every runtime either.
"""

from collections.abc import Callable, Collection
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
    _replace_tables(module, kept, _rows_of_bytes)


def tables_as_nibbles(module: fx.GraphModule, kept: Collection[str], *, block: int) -> None:
    """Keep token tables likewise in 4 bits with a scale for each `block` numbers of a row.

    A table whose rows have no whole number of blocks has bytes.
    """

    def look_up(module: fx.GraphModule, node: fx.Node, table: Tensor) -> fx.Node:
        if table.shape[1] % (2 * block):
            return _rows_of_bytes(module, node, table)
        return _rows_of_nibbles(module, node, table, block)

    _replace_tables(module, kept, look_up)


def _replace_tables(
    module: fx.GraphModule,
    kept: Collection[str],
    look_up: Callable[[fx.GraphModule, fx.Node, Tensor], fx.Node],
) -> None:
    """Put what `look_up` makes, a node that gives rows, in the place of look-ups."""
    graph = module.graph
    for node in graph.find_nodes(op="call_function", target=_aten.embedding.default):
        where = home(node)
        if where is None or where in kept:
            continue
        with graph.inserting_before(node):
            rows = look_up(module, node, constant(module, node.args[0]))
        rows.meta.update(node.meta)
        node.replace_all_uses_with(rows)
        graph.erase_node(node)
    graph.eliminate_dead_code()
    module.recompile()


def _rows_of_bytes(module: fx.GraphModule, node: fx.Node, table: Tensor) -> fx.Node:
    rounded, scales = rounded_blocks(table, bits=8, block=table.shape[1])
    rows = _gather(module, node, "rows", rounded.to(torch.int8), table.dtype)
    return module.graph.call_function(
        _aten.mul.Tensor, (rows, _gather(module, node, "scales", scales))
    )


def _rows_of_nibbles(module: fx.GraphModule, node: fx.Node, table: Tensor, block: int) -> fx.Node:
    """Take 16 a + b apart again: a is its sixteenth rounded, as b is from -7 to 7."""
    call = module.graph.call_function
    rounded, scales = rounded_blocks(table, bits=4, block=block)
    high, low = rounded.chunk(2, dim=1)
    pairs = _gather(module, node, "pairs", (16 * high + low).to(torch.int8), table.dtype)
    high = call(_aten.round.default, (call(_aten.mul.Tensor, (pairs, 1 / 16)),))
    low = call(_aten.sub.Tensor, (pairs, call(_aten.mul.Tensor, (high, 16.0))))
    rows = call(_aten.cat.default, ([high, low], -1))
    factors = _gather(module, node, "scales", scales)
    shape = [*node.meta["val"].shape[:-1], table.shape[1] // block]
    rows = call(_aten.reshape.default, (rows, [*shape, block]))
    factors = call(_aten.reshape.default, (factors, [*shape, 1]))
    rows = call(_aten.mul.Tensor, (rows, factors))
    return call(_aten.reshape.default, (rows, list(node.meta["val"].shape)))


def _gather(
    module: fx.GraphModule,
    node: fx.Node,
    what: str,
    values: Tensor,
    dtype: torch.dtype | None = None,
) -> fx.Node:
    """Look the node's tokens up in a table of our own; `dtype` is what to make of its rows."""
    place = add_constant(module, f"{node.name}_{what}", values)
    rows = module.graph.call_function(_aten.embedding.default, (place, node.args[1]))
    return rows if dtype is None else module.graph.call_function(_aten.to.dtype, (rows, dtype))


def rounded_blocks(matrix: Tensor, *, bits: int, block: int) -> tuple[Tensor, Tensor]:
    """Round a matrix symmetrically, with a scale for each `block` numbers of a row.

    Returns:
        whole numbers `(n, m)`, as floats, and scales `(n, m / block)`.
    """
    blocks, most = matrix.unflatten(1, (-1, block)), 2 ** (bits - 1) - 1
    scales = blocks.abs().amax(dim=2).clamp(min=torch.finfo(matrix.dtype).tiny * most) / most
    return (blocks / scales[:, :, None]).round().flatten(1), scales


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
