"""Smaller LiteRT files: static and dynamic int8, half-precision weights.

Quantised by LiteRT's own quantiser from the float32 file: weights of convolutions and linear layers
per output channel, activations per tensor; token tables in int8 as `token_tables` says. Left out:
4-bit weights.
"""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import fx

from students.exporters.graph import Graph
from students.exporters.litert import interpreter, save
from students.exporters.quiet import quiet
from students.exporters.token_tables import home, tables_as_bytes
from students.exporters.tracing import flat

ABOUT = {
    "fp16": "fp16 weights; float32 arithmetic, input and output",
    "int8": "8-bit layers and token table; ranges of activations from calibration",
    "dynamic-int8": "8-bit layers and token table; ranges of activations found at run time",
}
_aten = torch.ops.aten
_FUSED = (
    _aten.batch_norm.default,
    _aten.relu.default,
    _aten.relu_.default,
    _aten.hardtanh.default,
    _aten.hardtanh_.default,
)
_LAYERS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
_TABLES = ("EMBEDDING_LOOKUP",)


def write_int8(graph: Graph, path: Path) -> None:
    """Write weights and activations of layers in int8, calibrated on the graph's inputs."""
    module = flat(graph)
    tables_as_bytes(module, graph.keep_float)
    _quantise(module, graph, path, _static)


def write_dynamic_int8(graph: Graph, path: Path) -> None:
    """Write int8 weights of layers; the scales of activations are found at run time."""
    module = flat(graph)
    tables_as_bytes(module, graph.keep_float)
    _quantise(module, graph, path, _dynamic)


def write_fp16(graph: Graph, path: Path) -> None:
    """Write weights in half precision; the runtime widens them where it has no such arithmetic."""
    _quantise(flat(graph), graph, path, _halves, layers=_LAYERS + _TABLES)


def _static(recipe: Any, layer: Any) -> None:
    recipe.add_static_config(".*", layer, 8, 8)


def _dynamic(recipe: Any, layer: Any) -> None:
    recipe.add_dynamic_config(".*", layer, 8)


def _halves(recipe: Any, layer: Any) -> None:
    from ai_edge_quantizer.algorithm_manager import AlgorithmName
    from ai_edge_quantizer.qtyping import QuantGranularity

    whole = QuantGranularity.TENSORWISE
    recipe.add_weight_only_config(".*", layer, 16, whole, AlgorithmName.FLOAT_CASTING)


def _quantise(
    module: fx.GraphModule,
    graph: Graph,
    path: Path,
    rule: Callable[[Any, Any], None],
    *,
    layers: Sequence[str] = _LAYERS,
) -> None:
    """Write the module in float32, then over it what the rule makes of each kind of layer."""
    kept = _scopes(module, graph.keep_float)
    save(module, graph, path)
    content = path.read_bytes()
    with quiet():
        from ai_edge_quantizer import Quantizer
        from ai_edge_quantizer.algorithm_manager import AlgorithmName
        from ai_edge_quantizer.qtyping import TFLOperationName
        from ai_edge_quantizer.recipe_manager import RecipeManager

        recipe = RecipeManager()
        for layer in layers:
            rule(recipe, TFLOperationName(layer))
        for scope in kept:
            every = TFLOperationName.ALL_SUPPORTED
            recipe.add_quantization_config(
                re.escape(scope), every, algorithm_key=AlgorithmName.NO_QUANTIZE
            )
        ranges = _ranges(content, graph, recipe) if recipe.need_calibration() else None
        quantizer = Quantizer(content, recipe.get_quantization_recipe())
        result = quantizer.quantize(ranges, enable_progress_report=False)
    assert result.quantized_model is not None
    path.write_bytes(result.quantized_model)


def _ranges(content: bytes, graph: Graph, recipe: Any) -> Any:
    """Return the least and largest activations over all samples.

    The quantiser's own rule, a moving average, stays near the first sample's: a small text tower
    calibrated on 4 samples had an error of 0.27 instead of 0.06.
    """
    from ai_edge_quantizer.calibrator import Calibrator
    from ai_edge_quantizer.utils.qsv_utils import min_max_update

    calibrator = Calibrator(content, num_threads=1, qsv_update_func=min_max_update)
    ((name, sides),) = interpreter(content).get_signature_list().items()
    (given,) = sides["inputs"]
    samples = [{given: batch.numpy()} for batch in graph.batches()]
    calibrator.calibrate({name: samples}, recipe)
    return calibrator.get_model_qsvs()


def _scopes(module: fx.GraphModule, kept: tuple[str, ...]) -> list[str]:
    """Return what the file's names for these layers' results contain.

    A layer is fused with the norm and the activation behind it, and takes the last one's name.
    """
    found = {}
    for node in module.graph.nodes:
        if home(node) not in kept:
            continue
        found[_scope(node)] = None
        while len(node.users) == 1 and (node := next(iter(node.users))).target in _FUSED:
            found[_scope(node)] = None
    return list(found)


def _scope(node: fx.Node) -> str:
    stack = node.meta["nn_module_stack"].values()
    return "/".join(f"{kind}_{name.rpartition('.')[2]}" for name, kind in stack if name) + ";"
