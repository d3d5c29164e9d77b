"""LiteRT, once TensorFlow Lite: `.tflite` files for Android and the web.

Token ids are int32: LiteRT has no `argmax` over int64. Smaller files are made from the float32 one
by Google's quantiser; token tables are quantised too. Left out: int16 activations.
"""

import contextlib
import logging
import os
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from students.exporters.graph import Graph
from students.exporters.parity import Runner


def write(graph: Graph, path: Path) -> None:
    """Write float32."""
    with _quiet():
        import litert_torch

        litert_torch.convert(graph.module, (graph.example,)).export(str(path))


def write_fp16(graph: Graph, path: Path) -> None:
    """Write fp16 weights, which the runtime widens; half the bytes."""
    _quantize(graph, path, "weights", bits=16)


def write_int8(graph: Graph, path: Path) -> None:
    """Write weights per channel and activations in int8, calibrated on the graph's inputs."""
    _quantize(graph, path, "static", bits=8)


def write_dynamic_int8(graph: Graph, path: Path) -> None:
    """Write int8 weights per channel; the scales of activations are found at run time."""
    _quantize(graph, path, "dynamic", bits=8)


def write_8bit_weights(graph: Graph, path: Path) -> None:
    """Write 8-bit weights per channel; activations stay float."""
    _quantize(graph, path, "weights", bits=8)


def write_4bit_weights(graph: Graph, path: Path) -> None:
    """Write 4-bit weights per channel; activations stay float."""
    _quantize(graph, path, "weights", bits=4)


def _quantize(graph: Graph, path: Path, how: str, *, bits: int) -> None:
    """Write float32, then quantise that file by a recipe of its operations."""
    whole = path.with_name(f".{path.name}.float")
    write(graph, whole)
    with _quiet():
        from ai_edge_quantizer import qtyping, quantizer, recipe_manager

        recipe = recipe_manager.RecipeManager()
        _add(recipe, how, bits)
        for name in graph.keep_float:
            recipe.add_quantization_config(
                f".*{re.escape(name)}[^0-9a-z].*",
                qtyping.TFLOperationName.ALL_SUPPORTED,
                algorithm_key=quantizer.AlgorithmName.NO_QUANTIZE,
            )
        work = quantizer.Quantizer(str(whole), recipe.get_quantization_recipe())
        ranges = _ranges(work, graph) if how == "static" else None
        done = work.quantize(ranges, enable_progress_report=False)
    assert done.quantized_model is not None
    path.write_bytes(done.quantized_model)
    whole.unlink()


def _add(recipe: Any, how: str, bits: int) -> None:
    """Apply one precision to every operation that has it."""
    from ai_edge_quantizer import algorithm_manager, qtyping

    every = {"regex": ".*", "operation_name": qtyping.TFLOperationName.ALL_SUPPORTED}
    if how == "static":
        recipe.add_static_config(**every, activation_num_bits=8, weight_num_bits=bits)
    elif how == "dynamic":
        recipe.add_dynamic_config(**every, num_bits=bits)
    elif bits == 16:
        key = algorithm_manager.AlgorithmName.FLOAT_CASTING
        recipe.add_weight_only_config(**every, num_bits=bits, algorithm_key=key)
    else:
        recipe.add_weight_only_config(**every, num_bits=bits)


def _ranges(work: Any, graph: Graph) -> Any:
    """Calibrate on as many whole batches as the samples fill."""
    assert graph.batch_size is not None
    interpreter = _interpreter(work.float_model_buffer)
    (signature, names), *_ = interpreter.get_signature_list().items()
    parts = [part for part in graph.inputs.split(graph.batch_size) if len(part) == graph.batch_size]
    batches = [{names["inputs"][0]: part.numpy()} for part in parts]
    return work.calibrate({signature: batches}, num_threads=1)


def open_file(path: Path, *, threads: int = 1) -> Runner:
    """Load a file into LiteRT's interpreter; the result maps a batch of its size to rows."""
    interpreter = _interpreter(path.read_bytes(), threads)
    (given,), (made,) = interpreter.get_input_details(), interpreter.get_output_details()

    def run(batch: np.ndarray) -> np.ndarray:
        interpreter.set_tensor(given["index"], batch)
        interpreter.invoke()
        return interpreter.get_tensor(made["index"])

    return run


def _interpreter(content: bytes, threads: int = 1) -> Any:
    with _quiet():
        from ai_edge_litert.interpreter import Interpreter

        interpreter = Interpreter(model_content=bytes(content), num_threads=threads)
    interpreter.allocate_tensors()
    return interpreter


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hush what the converter prints of its progress, and its libraries' deprecations."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with (
            open(os.devnull, "w") as nowhere,
            contextlib.redirect_stdout(nowhere),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
