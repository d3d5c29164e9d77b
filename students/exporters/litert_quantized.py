"""Smaller LiteRT files: static and dynamic int8, 4-bit weights, half-precision weights.

Quantised by LiteRT's own quantiser from the float32 file: weights of convolutions and linear layers
per output channel, activations per tensor; token tables in int8 as `token_tables` says.
4 bits: linear layers have a scale for each 32 weights of a row; all else is as in dynamic int8.
LiteRT takes 4-bit convolutions too, but with one scale for each filter only: the picture tower of a
fresh smallconv-8 had an error of 0.37 then, and has 0.025 with 8 bits.
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
from students.exporters.token_tables import constant, home, tables_as_bytes, tables_as_nibbles
from students.exporters.tracing import flat

BLOCK = 32
ABOUT = {
    "fp16": "fp16 weights; float32 arithmetic, input and output",
    "int8": "8-bit layers and token table; ranges of activations from calibration",
    "dynamic-int8": "8-bit layers and token table; ranges of activations found at run time",
    "4bit-weights": (
        f"4-bit linear layers and token table, a scale for each {BLOCK} numbers; 8-bit "
        "convolutions and activations, their ranges found at run time"
    ),
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
# Adds to a recipe what becomes of a kind of layer where names match.
_Rule = Callable[[Any, str, Any], None]


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


def write_4bit_weights(graph: Graph, path: Path) -> None:
    """Write 4-bit linear layers and token tables; convolutions as in dynamic int8."""
    module = flat(graph)
    tables_as_nibbles(module, graph.keep_float, block=BLOCK)
    _quantise(module, graph, path, _dynamic, linear=_blocks)


def write_fp16(graph: Graph, path: Path) -> None:
    """Write weights in half precision; the runtime widens them where it has no such arithmetic."""
    _quantise(flat(graph), graph, path, _halves, layers=_LAYERS + _TABLES)


def _static(recipe: Any, scope: str, layer: Any) -> None:
    recipe.add_static_config(scope, layer, 8, 8)


def _dynamic(recipe: Any, scope: str, layer: Any) -> None:
    recipe.add_dynamic_config(scope, layer, 8)


def _blocks(recipe: Any, scope: str, layer: Any) -> None:
    from ai_edge_quantizer.qtyping import QuantGranularity

    recipe.add_dynamic_config(scope, layer, 4, getattr(QuantGranularity, f"BLOCKWISE_{BLOCK}"))


def _halves(recipe: Any, scope: str, layer: Any) -> None:
    from ai_edge_quantizer.algorithm_manager import AlgorithmName
    from ai_edge_quantizer.qtyping import QuantGranularity

    whole = QuantGranularity.TENSORWISE
    recipe.add_weight_only_config(scope, layer, 16, whole, AlgorithmName.FLOAT_CASTING)


def _quantise(
    module: fx.GraphModule,
    graph: Graph,
    path: Path,
    rule: _Rule,
    *,
    layers: Sequence[str] = _LAYERS,
    linear: _Rule | None = None,
) -> None:
    """Write the module in float32, then over it what the rule makes of each kind of layer.

    `linear` is another rule, for linear layers whose rows are whole blocks; matrices that belong to
    no layer, as CLIP's projections, stay float then: nobody has measured what 4 bits do to them.
    """
    kept = _scopes(_layers(module, graph.keep_float))
    if linear is not None:
        kept += _scopes(_products(module))
    save(module, graph, path)
    content = path.read_bytes()
    with quiet():
        from ai_edge_quantizer import Quantizer
        from ai_edge_quantizer.algorithm_manager import AlgorithmName
        from ai_edge_quantizer.qtyping import TFLOperationName
        from ai_edge_quantizer.recipe_manager import RecipeManager

        recipe = RecipeManager()
        for layer in layers:
            rule(recipe, ".*", TFLOperationName(layer))
        if linear is not None:
            # What comes later counts, of layers that their activations give one name.
            for rows, each in ((True, linear), (False, rule)):
                for scope in _scopes(_linear_layers(module, whole=rows)):
                    each(recipe, re.escape(scope), TFLOperationName("FULLY_CONNECTED"))
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


def _layers(module: fx.GraphModule, names: tuple[str, ...]) -> list[fx.Node]:
    return [node for node in module.graph.nodes if home(node) in names]


def _linear_layers(module: fx.GraphModule, *, whole: bool) -> list[fx.Node]:
    """Return the linear layers whose rows of weights have a whole number of blocks, or not."""
    nodes = module.graph.find_nodes(op="call_function", target=_aten.linear.default)
    return [
        node
        for node in nodes
        if home(node) is not None
        and (constant(module, node.args[1]).shape[1] % BLOCK == 0) == whole
    ]


def _products(module: fx.GraphModule) -> list[fx.Node]:
    nodes = module.graph.find_nodes(op="call_function", target=_aten.matmul.default)
    return [node for node in nodes if node.args[1].op == "get_attr"]


def _scopes(nodes: Sequence[fx.Node]) -> list[str]:
    """Return what the file's names for these nodes' results contain.

    A layer is fused with the norm and the activation behind it, and takes the last one's name.
    """
    found = {}
    for node in nodes:
        found[_scope(node)] = None
        while len(node.users) == 1 and (node := next(iter(node.users))).target in _FUSED:
            found[_scope(node)] = None
    return list(found)


def _scope(node: fx.Node) -> str:
    stack = node.meta["nn_module_stack"].values()
    return "/".join(f"{kind}_{name.rpartition('.')[2]}" for name, kind in stack if name) + ";"
