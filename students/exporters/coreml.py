"""Core ML: ML programs (`.mlpackage` folders) for iOS and macOS.

Arithmetic is float32 or fp16; weights can be rounded to 8 or 4 bits. Predictions exist on macOS
only: elsewhere the file's structure is checked (inputs, outputs, types, deployment target) and
nothing is said of its numbers. Left out: int8 activations, whose calibration needs predictions.
"""

import json
import uuid
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

from students.exporters.graph import Graph

# 4-bit weights in blocks came with it; the others run from iOS 16 on.
_TARGETS = {"none": "iOS16", "fp16": "iOS16", "8bit-weights": "iOS16", "4bit-weights": "iOS18"}
_BLOCK = 32
_MANIFEST = "Manifest.json"


def write(graph: Graph, path: Path) -> None:
    """Write float32 arithmetic."""
    _save(_convert(graph, "none"), graph, path)


def write_fp16(graph: Graph, path: Path) -> None:
    """Write fp16 arithmetic, which the Neural Engine needs."""
    _save(_convert(graph, "fp16"), graph, path)


def write_8bit_weights(graph: Graph, path: Path) -> None:
    """Write fp16 arithmetic with 8-bit weights per channel."""
    _write_rounded(graph, path, "8bit-weights", dtype="int8", granularity="per_channel")


def write_4bit_weights(graph: Graph, path: Path) -> None:
    """Write fp16 arithmetic with 4-bit weights in blocks of 32; needs iOS 18."""
    _write_rounded(graph, path, "4bit-weights", dtype="int4", granularity="per_block")


def _write_rounded(graph: Graph, path: Path, precision: str, *, dtype: str, granularity: str):
    model = _convert(graph, precision)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import coremltools.optimize.coreml as optimize

        settings = optimize.OpLinearQuantizerConfig(
            mode="linear_symmetric", dtype=dtype, granularity=granularity, block_size=_BLOCK
        )
        model = optimize.linear_quantize_weights(
            model, optimize.OptimizationConfig(global_config=settings)
        )
    _save(model, graph, path)


def _convert(graph: Graph, precision: str) -> Any:
    """Translate a graph into an ML program, in memory."""
    program = torch.export.export(graph.module, (graph.example,)).run_decompositions({})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import coremltools

        full = precision == "none"
        kind = coremltools.precision.FLOAT32 if full else coremltools.precision.FLOAT16
        integers = graph.interface["input_dtype"] == "int32"
        given = coremltools.TensorType(
            name=graph.interface["input"],
            shape=tuple(graph.example.shape),
            dtype=np.int32 if integers else np.float32,
        )
        made = coremltools.TensorType(name=graph.interface["output"], dtype=np.float32)
        return coremltools.convert(
            program,
            inputs=[given],
            outputs=[made],
            convert_to="mlprogram",
            compute_precision=kind,
            minimum_deployment_target=coremltools.target[_TARGETS[precision]],
            skip_model_load=True,
        )


def _save(model: Any, graph: Graph, path: Path) -> None:
    """Write the package, with names of its parts that do not change from one export to the next."""
    model.user_defined_metadata.update(graph.properties)
    model.save(str(path))
    manifest = json.loads((path / _MANIFEST).read_text())
    names = {
        old: str(uuid.uuid5(uuid.NAMESPACE_URL, entry["path"])).upper()
        for old, entry in manifest["itemInfoEntries"].items()
    }
    text = json.dumps(manifest, indent=4, sort_keys=True)
    for old, new in names.items():
        text = text.replace(old, new)
    (path / _MANIFEST).write_text(text)


def check_structure(graph: Graph, path: Path) -> None:
    """Read the package back: it must take and give what metadata.json says.

    Raises:
        RuntimeError: says what differs.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import coremltools

        spec = coremltools.models.utils.load_spec(str(path))
    (given,), (made,) = spec.description.input, spec.description.output
    found = (given.name, list(given.type.multiArrayType.shape), made.name)
    wanted = (graph.interface["input"], list(graph.example.shape), graph.interface["output"])
    if found != wanted or not spec.HasField("mlProgram"):
        raise RuntimeError(f"{path.name} takes and gives {found}, expected {wanted}")
