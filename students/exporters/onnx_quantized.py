"""ONNX files whose arithmetic is in integers: static and dynamic int8.

Quantised by ONNX Runtime's own tools from the float32 file. Token tables are quantised too. Dynamic
int8 leaves convolutions float: ONNX Runtime's integer convolution with scales found on the fly is
several times slower than the float one. Smaller weights with float arithmetic: `onnx_weights`.

Integers are stored without a sign. On x86-64 processors without VNNI (AVX2) ONNX Runtime multiplies
unsigned inputs by signed weights in sums of 16 bits, which overflow: a tower that
tests/parity/test_students_export_quantized.py exports had a relative error of 0.62 there.
"""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from onnx_ir.passes.common import ClearMetadataAndDocStringPass

from students.exporters.graph import Graph
from students.exporters.onnx import NAME_SCOPES, to_program
from students.exporters.quiet import quiet

# A weight of 0 stays 0, for every output channel by the same integer.
_SYMMETRIC = {"WeightSymmetric": True}


def write_int8(graph: Graph, path: Path) -> None:
    """Write weights per channel and activations in int8, calibrated on the graph's inputs.

    Nothing is rounded that need not be: behind a convolution what its ReLU leaves, not its input,
    whose range is wider; and no products of matrices, as ONNX Runtime's integer kernel for them
    gives floats.
    """
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    model, scopes = float_model(graph)
    samples: Any = _Calibration(graph)
    with quiet():
        quantize_static(
            model,
            path,
            samples,
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv", "Relu", "Clip", "MatMul", "Gemm", "Gather"],
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QUInt8,
            nodes_to_exclude=excluded(scopes, graph.keep_float),
            extra_options=_SYMMETRIC | {"OpTypesToExcludeOutputQuantization": ["MatMul", "Gemm"]},
        )
    _stamp(graph, path)


def write_dynamic_int8(graph: Graph, path: Path) -> None:
    """Write int8 weights per channel; the scales of activations are found at run time."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model, scopes = float_model(graph)
    with quiet():
        quantize_dynamic(
            model,
            path,
            op_types_to_quantize=["MatMul", "Gemm", "Gather"],
            per_channel=True,
            weight_type=QuantType.QUInt8,
            nodes_to_exclude=excluded(scopes, graph.keep_float),
            extra_options=_SYMMETRIC | {"MatMulConstBOnly": True},
        )
    _stamp(graph, path)


class _Calibration:
    """Sample batches, as ONNX Runtime's calibrator asks for them."""

    def __init__(self, graph: Graph) -> None:
        self._left: Iterator[Any] = iter(graph.batches())
        self._name = graph.interface["input"]

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self._left, None)
        return None if batch is None else {self._name: batch.numpy()}


def float_model(graph: Graph, *, opset: int | None = None) -> tuple[Any, dict[str, list[str]]]:
    """Return the float32 model, and the names of the modules around each node.

    Args:
        graph: what to translate.
        opset: ONNX's version; the exporter's own when None.
    """
    program = to_program(graph, opset=opset)
    scopes: dict[str, list[str]] = {}
    for number, node in enumerate(program.model.graph):
        node.name = node.name or f"node_{number}"
        around = ast.literal_eval(node.metadata_props.get(NAME_SCOPES, "[]"))
        scopes[node.name] = [*around, *_owners(node)]
    ClearMetadataAndDocStringPass()(program.model)
    model = program.model_proto
    # Shapes that the exporter noted before its own rewriting; ONNX Runtime's tools find some wrong.
    del model.graph.value_info[:]
    return model, scopes


def _owners(node: Any) -> list[str]:
    """Name the modules that a node's weights are of.

    A convolution that is folded with its normalisation has lost its own module's name; its weights
    still have it.
    """
    weights = [value.name for value in node.inputs if value is not None and value.is_initializer()]
    return [owner for name in weights if (owner := name.rpartition(".")[0])]


def excluded(scopes: dict[str, list[str]], modules: tuple[str, ...]) -> list[str]:
    """Name the nodes that one of `modules` computes, as ONNX Runtime's quantisers know them."""
    inside = [node for node, around in scopes.items() if set(around) & set(modules)]
    return [*inside, *map(split_name, inside)]


def split_name(node: str) -> str:
    """Name the product in which ONNX Runtime's quantisers split a Gemm before they look at it."""
    return f"{node}_MatMul"


def _stamp(graph: Graph, path: Path) -> None:
    import onnx

    save(onnx.load(path), graph, path)


def save(model: Any, graph: Graph, path: Path) -> None:
    """Write a model with what it says of itself."""
    import onnx

    del model.metadata_props[:]
    onnx.helper.set_model_props(model, graph.properties)
    path.write_bytes(model.SerializeToString(deterministic=True))
