"""ONNX files with smaller weights and float32 arithmetic: fp16, and 4 bits in blocks.

fp16: every matrix is kept in fp16 and cast where it is used; ONNX Runtime folds the casts when it
loads the file, so that no step of the arithmetic is in fp16, which its CPU kernels mostly lack.
4 bits: one scale for each 32 numbers along the input. Matrices become ONNX Runtime's `MatMulNBits`,
token tables its `GatherBlockQuantized`, convolutions a standard `DequantizeLinear` before the float
one. A convolution whose input has no whole number of blocks (the first one, depthwise ones) has 8
bits and one scale for each output channel. A matrix that belongs to no layer (CLIP's projections)
stays float32. Left out: fp16 arithmetic, zero points.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from students.exporters.graph import Graph
from students.exporters.onnx_quantized import float_model, save, split_name
from students.exporters.quiet import quiet
from students.exporters.sensitivity import LAYERS

BLOCK = 32
ABOUT: Mapping[str, str] = MappingProxyType(
    {
        "fp16": "fp16 weights; float32 arithmetic, input and output",
        "int8": "8-bit weights (a scale for each output channel), activations and token table",
        "dynamic-int8": "8-bit linear layers and token table; convolutions float32",
        "4bit-weights": (
            f"4-bit weights and token table, a scale for each {BLOCK} numbers; narrow "
            "convolutions 8-bit; float32 arithmetic"
        ),
    }
)
_OPSET = 21  # the first whose DequantizeLinear has blocks and 4 bits
# Biases and norms stay float32: they are a thousandth of a file, and the arithmetic's own type.
_SMALL = 1024


def write_fp16(graph: Graph, path: Path) -> None:
    """Write fp16 weights; input, output and arithmetic stay float32."""
    model, _ = float_model(graph)
    for weights, array in _matrices(model):
        _replace(model, weights, "Cast", {"weights": array.astype(np.float16)}, to=1)
    save(model, graph, path)


def write_4bit_weights(graph: Graph, path: Path) -> None:
    """Write 4-bit weights in blocks of 32; input, output and arithmetic stay float32."""
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer
    from onnxruntime.quantization.onnx_model import ONNXModel

    model, scopes = float_model(graph, opset=_OPSET)
    kept = _unmeasured(graph, scopes)
    # One that is folded with its normalisation has lost its module, and has the weights' name.
    _round_convolutions(model, tuple(f"{name}." for name in graph.keep_float))
    whole = ONNXModel(model)
    whole.replace_gemm_with_matmul()
    tables = {weights.name for weights, _ in _matrices(model)}
    others = [node for node in model.graph.node if node.op_type == "Gather"]
    kept += [node.name for node in others if node.input[0] not in tables]
    quantizer = MatMulNBitsQuantizer(
        model,
        block_size=BLOCK,
        is_symmetric=True,
        nodes_to_exclude=kept,
        op_types_to_quantize=("MatMul", "Gather"),
        quant_axes=(("MatMul", 0), ("Gather", 1)),
    )
    with quiet():
        quantizer.process()
    save(quantizer.model.model, graph, path)


def _unmeasured(graph: Graph, scopes: dict[str, list[str]]) -> list[str]:
    """Name the nodes to leave alone: those of kept layers, and of no layer, as a bare projection.

    What rounding to 4 bits does is known of whole layers only (see `sensitivity`).
    """
    layers = [name for name, part in graph.module.named_modules() if isinstance(part, LAYERS)]
    rounded = set(layers) - set(graph.keep_float)
    others = [node for node, around in scopes.items() if not rounded & set(around)]
    return [*others, *(split_name(node) for node in others)]


def _matrices(model: Any) -> Iterator[tuple[Any, np.ndarray]]:
    """Yield every float32 initializer that is worth it, with its values."""
    import onnx

    for weights in list(model.graph.initializer):
        matrix = weights.data_type == onnx.TensorProto.FLOAT and len(weights.dims) > 1
        if matrix and np.prod(weights.dims) >= _SMALL:
            yield weights, onnx.numpy_helper.to_array(weights)


def _round_convolutions(model: Any, kept: tuple[str, ...]) -> None:
    import ml_dtypes

    inputs = {node.input[1] for node in model.graph.node if node.op_type == "Conv"}
    for weights, array in _matrices(model):
        if weights.name not in inputs or (kept and weights.name.startswith(kept)):
            continue
        if array.shape[1] % BLOCK == 0:
            blocks = array.reshape(array.shape[0], -1, BLOCK, *array.shape[2:])
            rounded, scale = _rounded(blocks, axis=(2,), most=7)
            parts = {"weights": rounded.reshape(array.shape).astype(ml_dtypes.int4)}
            parts["scale"] = scale.squeeze(2)
            _replace(model, weights, "DequantizeLinear", parts, axis=1, block_size=BLOCK)
        else:
            rounded, scale = _rounded(array, axis=tuple(range(1, array.ndim)), most=127)
            parts = {"weights": rounded.astype(np.int8), "scale": scale.reshape(-1)}
            _replace(model, weights, "DequantizeLinear", parts, axis=0)


def _rounded(array: np.ndarray, *, axis: tuple[int, ...], most: int) -> tuple[Any, np.ndarray]:
    """Round symmetrically with one scale along `axis`, which stays with length 1."""
    largest = np.abs(array).max(axis=axis, keepdims=True)
    scale = np.maximum(largest / most, np.finfo(np.float32).tiny).astype(np.float32)
    return np.clip(np.rint(array / scale), -most, most), scale


def _replace(
    model: Any, weights: Any, operation: str, parts: dict[str, np.ndarray], **settings: Any
) -> None:
    """Put in an initializer's place an operation that makes it from smaller parts."""
    import onnx

    made = [onnx.numpy_helper.from_array(v, f"{weights.name}.{k}") for k, v in parts.items()]
    names = [each.name for each in made]
    node = onnx.helper.make_node(
        operation, names, [weights.name], name=f"{weights.name}.{operation}", **settings
    )
    model.graph.initializer.remove(weights)
    model.graph.initializer.extend(made)
    model.graph.node.insert(0, node)
