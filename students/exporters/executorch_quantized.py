"""Smaller ExecuTorch files: static and dynamic int8, half precision.

Convolutions and linear layers are quantised by PyTorch's own PT2E flow with XNNPACK's rules:
weights per output channel, activations per tensor; token tables as `token_tables` says. Additions,
norms and attention's own products stay float. Left out: 4-bit weights, whose look-ups need kernels
that not every build of the runtime has.
"""

import copy
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

from students.exporters.executorch import save
from students.exporters.graph import Graph
from students.exporters.token_tables import add_constant, constant, home, tables_as_bytes
from students.exporters.tracing import flat

ABOUT = {
    "fp16": "fp16 arithmetic and linear layers; the file keeps convolutions in float32",
    "int8": "8-bit layers and token table; ranges of activations from calibration",
    "dynamic-int8": "8-bit linear layers and token table; convolutions float32",
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
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations inside both libraries
        from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
            XNNPACKQuantizer,
            get_symmetric_quantization_config,
        )
        from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

        config = get_symmetric_quantization_config(is_per_channel=True, is_dynamic=dynamic)
        quantizer = XNNPACKQuantizer().set_filter_function(_all_but(module, graph.keep_float))
        for operator in _LINEAR if dynamic else _LINEAR + _CONVOLUTIONS:
            quantizer.set_operator_type(operator, config)
        prepared = prepare_pt2e(module, quantizer)
        for batch in graph.batches():
            prepared(batch)
        return convert_pt2e(prepared)


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
