"""Smaller ExecuTorch files: static and dynamic int8, 4-bit weights, half precision.

Convolutions and linear layers are quantised by PyTorch's own PT2E flow with XNNPACK's rules:
weights per output channel, activations per tensor; token tables as `token_tables` says. Additions,
norms and attention's own products stay float.
4 bits: linear layers have a scale for each 32 weights of a row and 8-bit activations, whose scales
are found at run time, a row each. XNNPACK has no 4-bit convolutions: theirs are the int8 ones.
"""

import copy
import operator
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

from students.exporters.executorch import save
from students.exporters.graph import Graph
from students.exporters.quiet import quiet
from students.exporters.token_tables import (
    add_constant,
    constant,
    home,
    rounded_blocks,
    tables_as_bytes,
    tables_as_nibbles,
)
from students.exporters.tracing import flat

BLOCK = 32  # XNNPACK's least
ABOUT = {
    "fp16": "fp16 arithmetic and linear layers; the file keeps convolutions in float32",
    "int8": "8-bit layers and token table; ranges of activations from calibration",
    "dynamic-int8": "8-bit linear layers and token table; convolutions float32",
    "4bit-weights": (
        f"4-bit linear layers and token table, a scale for each {BLOCK} numbers; 8-bit "
        "convolutions and activations"
    ),
}
_aten = torch.ops.aten
_LINEAR: tuple[Any, ...] = (_aten.linear.default,)
_CONVOLUTIONS: tuple[Any, ...] = (_aten.conv1d.default, _aten.conv2d.default)


def write_int8(graph: Graph, path: Path) -> None:
    """Write weights and activations in int8, calibrated on the graph's inputs."""
    save(quantised(graph, dynamic=False), graph, path)


def write_dynamic_int8(graph: Graph, path: Path) -> None:
    """Write int8 weights of linear layers; the scales of activations are found at run time."""
    save(quantised(graph, dynamic=True), graph, path)


def write_4bit_weights(graph: Graph, path: Path) -> None:
    """Write 4-bit linear layers and token tables, and int8 convolutions, calibrated as in int8."""
    save(in_4_bits(graph), graph, path)


def write_fp16(graph: Graph, path: Path) -> None:
    """Write it to compute in half precision; input and output stay as they are.

    XNNPACK's files keep the weights of convolutions in float32.
    """
    half = _Half(copy.deepcopy(graph.module))
    save(flat(replace(graph, module=half)), graph, path)


class _Half(nn.Module):
    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module.half()

    def forward(self, inputs: Tensor) -> Tensor:
        given = inputs.half() if inputs.is_floating_point() else inputs
        return self.module(given).float()


def quantised(graph: Graph, *, dynamic: bool) -> nn.Module:
    """Return a graph's module with integer weights, as XNNPACK's partitioner reads it."""
    module = flat(graph)
    _products_as_layers(module)
    tables_as_bytes(module, graph.keep_float)
    return _calibrated(module, graph, _LINEAR if dynamic else _LINEAR + _CONVOLUTIONS, dynamic)


def in_4_bits(graph: Graph) -> nn.Module:
    """Return a graph's module with 4-bit linear layers, as XNNPACK's partitioner reads it."""
    module = flat(graph)
    tables_as_nibbles(module, graph.keep_float, block=BLOCK)
    for node in module.graph.find_nodes(op="call_function", target=_aten.linear.default):
        if home(node) is not None and home(node) not in graph.keep_float:
            _in_blocks(module, node)
    module.recompile()
    # The quantiser wants to know what every node gives, the new ones, too.
    return _calibrated(flat(replace(graph, module=module)), graph, _CONVOLUTIONS, dynamic=False)


def _calibrated(
    module: fx.GraphModule, graph: Graph, operators: tuple[Any, ...], dynamic: bool
) -> nn.Module:
    """Give these operators 8-bit weights and activations, by PT2E."""
    with quiet():  # of deprecations inside both libraries
        from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
            XNNPACKQuantizer,
            get_symmetric_quantization_config,
        )
        from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

        config = get_symmetric_quantization_config(is_per_channel=True, is_dynamic=dynamic)
        quantizer = XNNPACKQuantizer().set_filter_function(_all_but(module, graph.keep_float))
        for operator in operators:
            quantizer.set_operator_type(operator, config)
        prepared = prepare_pt2e(module, quantizer)
        for batch in graph.batches():
            prepared(batch)
        return convert_pt2e(prepared)


def _in_blocks(module: fx.GraphModule, node: fx.Node) -> None:
    """Round a linear layer's weights to 4 bits in blocks, and what it is given to 8 bits a row.

    Weights whose rows have no whole number of blocks have 8 bits and one scale a row.
    """
    with quiet():
        import torchao.quantization  # noqa: F401  # it registers the operators

    rows, place, *bias = node.args
    assert isinstance(rows, fx.Node) and isinstance(place, fx.Node)
    matrix = constant(module, place)
    whole = matrix.shape[1] % BLOCK == 0
    bits, block = (4, BLOCK) if whole else (8, matrix.shape[1])
    rounded, scales = rounded_blocks(matrix, bits=bits, block=block)
    call, low, high = module.graph.call_function, -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    ao = torch.ops.torchao
    span = [*[1] * (rows.meta["val"].ndim - 1), matrix.shape[1]]
    with module.graph.inserting_before(node):
        parts = {"blocks": rounded.to(torch.int8), "scales": scales}
        parts["zeros"] = torch.zeros_like(scales, dtype=torch.int8)
        made = [add_constant(module, f"{node.name}_{k}", v) for k, v in parts.items()]
        weight = call(
            ao.dequantize_affine.default,
            (made[0], [1, block], made[1], made[2], torch.int8, low, high),
        )
        found = call(
            ao.choose_qparams_affine.default,
            (rows, "ASYMMETRIC", span, torch.int8, -128, 127, None, None, torch.int8),
        )
        scale, zero = (call(operator.getitem, (found, place)) for place in (0, 1))
        given = (span, scale, zero, torch.int8, -128, 127)
        narrow = call(ao.quantize_affine.default, (rows, *given))
        wide = call(ao.dequantize_affine.default, (narrow, *given))
    node.args = (wide, weight, *bias)


def _all_but(module: fx.GraphModule, kept: tuple[str, ...]) -> Callable[[fx.Node], bool]:
    """Say of each node whether it may be quantised; layers are known by where weights live."""
    names = {node.name for node in module.graph.nodes if home(node) in kept}
    return lambda node: node.name not in names


def _products_as_layers(module: fx.GraphModule) -> None:
    """Turn rows times a constant matrix, as projections are written, into linear layers."""
    for node in module.graph.find_nodes(op="call_function", target=_aten.matmul.default):
        rows, matrix = node.args
        if matrix.op != "get_attr":
            continue
        values = constant(module, matrix)
        if values.ndim != 2:
            continue
        with module.graph.inserting_before(node):
            weight = add_constant(module, f"{node.name}_weight", values.T.contiguous())
            layer = module.graph.call_function(_aten.linear.default, (rows, weight))
        layer.meta.update(node.meta)  # quantisers leave alone what they know no type of
        node.replace_all_uses_with(layer)
        module.graph.erase_node(node)
    module.graph.eliminate_dead_code()
    module.recompile()
