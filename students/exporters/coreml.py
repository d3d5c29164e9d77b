"""Core ML: ML programs (`.mlpackage` folders) for iOS and macOS.

Token ids are int32. Weights can be rounded to 8 bits (a scale for each output channel) or to 4 (one
for each 32 numbers); arithmetic is fp16 then, and activations stay floats: their calibration needs
predictions. With preprocessing inside, a picture tower takes an image of its size, as cameras and
Vision give it; Core ML's own scale is one number for all colours, so the normalisation is part of
the program. Predictions exist on macOS only; elsewhere a package's structure is checked, not its
numbers. Left out: batches of a free size.
"""

import json
import uuid
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor, nn

from students.exporters.graph import Bytes, Graph
from students.exporters.parity import Runner
from students.exporters.quiet import quiet
from students.exporters.tracing import traced

BLOCK = 32
# Weights in blocks came with iOS 18 (macOS 15); all else runs from iOS 16 (macOS 13) on.
TARGETS: Mapping[str, str] = MappingProxyType(
    {"none": "iOS16", "fp16": "iOS16", "int8": "iOS16", "4bit-weights": "iOS18"}
)
ABOUT: Mapping[str, str] = MappingProxyType(
    {
        "none": "float32 weights and arithmetic; iOS 16, macOS 13 or later",
        "fp16": "fp16 weights and arithmetic, float32 in and out; iOS 16, macOS 13 or later",
        "int8": (
            "8-bit weights, symmetric, a scale for each output channel; fp16 arithmetic; iOS 16, "
            "macOS 13 or later"
        ),
        "4bit-weights": (
            f"4-bit weights, symmetric, a scale for each {BLOCK} numbers; fp16 arithmetic; iOS 18, "
            "macOS 15 or later"
        ),
    }
)
# Core ML's cast of indices to 16 bits guesses from a table's size that ids fit; ours stay int32.
_LEFT_OUT = ("common::add_int16_cast",)
_SMALL = 1024  # numbers of a tensor that is not worth rounding
_MANIFEST = "Manifest.json"
_TYPES = {65568: "float32", 131104: "int32"}  # as ArrayFeatureType numbers them
_RGB = 20  # as ImageFeatureType numbers it


def write(graph: Graph, path: Path) -> None:
    """Write float32 weights and arithmetic."""
    _save(_convert(graph, "none"), graph, path, "none")


def write_fp16(graph: Graph, path: Path) -> None:
    """Write fp16 weights and arithmetic, which the Neural Engine asks for; float32 in and out."""
    _save(_convert(graph, "fp16"), graph, path, "fp16")


def write_int8(graph: Graph, path: Path) -> None:
    """Write 8-bit weights, a scale for each output channel, and fp16 arithmetic."""
    rounding = {"dtype": "int8", "granularity": "per_channel"}
    _save(_rounded(graph, "int8", rounding), graph, path, "int8")


def write_4bit_weights(graph: Graph, path: Path) -> None:
    """Write 4-bit weights in blocks of 32 along the input, and fp16 arithmetic.

    Weights whose input has no whole number of blocks (the first convolution, depthwise ones) stay
    fp16.
    """
    rounding = {"dtype": "int4", "granularity": "per_block", "block_size": BLOCK}
    _save(_rounded(graph, "4bit-weights", rounding), graph, path, "4bit-weights")


def open_file(path: Path, *, threads: int = 1) -> Runner:
    """Load a package as an app does; on macOS only. Core ML takes its own number of threads."""
    with quiet():
        import coremltools

        model = coremltools.models.MLModel(str(path))
    (given,), (made,) = model.get_spec().description.input, model.get_spec().description.output
    picture = given.type.WhichOneof("Type") == "imageType"

    def run(batch: np.ndarray) -> np.ndarray:
        taken = Image.fromarray(batch[0]) if picture else batch
        return np.asarray(model.predict({given.name: taken})[made.name], np.float32)

    return run


def inspect(graph: Graph, path: Path, quantize: str) -> None:
    """Read a package back: interface, deployment target, what it says, and that tokens stay whole.

    Raises:
        RuntimeError: says what differs.
    """
    with quiet():
        import coremltools

        spec = coremltools.models.utils.load_spec(str(path))
        target = coremltools.target[TARGETS[quantize]]
    (given,), (made,) = spec.description.input, spec.description.output
    found = (spec.specificationVersion, *(_described(each) for each in (given, made)))
    asked = graph.interface
    wanted = (
        int(target.value),
        *((asked[k], list(asked[f"{k}_shape"]), asked[f"{k}_dtype"]) for k in ("input", "output")),
    )
    if found != wanted:
        raise RuntimeError(f"{path} takes and gives {found}, expected {wanted}")
    said = dict(spec.description.metadata.userDefined)
    missing = {key: value for key, value in graph.properties.items() if said.get(key) != value}
    if missing:
        raise RuntimeError(f"{path} does not say of itself {missing}")
    narrow = [op for op in operations(spec) if op.type == "cast" and _reads(op, asked["input"])]
    if narrow and graph.name == "text":
        raise RuntimeError(f"{path} casts token ids to another type, in which they may not fit")


def operations(spec: Any) -> list[Any]:
    """Return the operations of a package's program, in order."""
    (block,) = spec.mlProgram.functions["main"].block_specializations.values()
    return list(block.operations)


def _reads(operation: Any, name: str) -> bool:
    return any(each.name == name for value in operation.inputs.values() for each in value.arguments)


def _described(feature: Any) -> tuple[str, list[int], str]:
    """Name, shape and type; of an image those of its bytes."""
    if feature.type.WhichOneof("Type") == "imageType":
        image = feature.type.imageType
        kind = "uint8" if image.colorSpace == _RGB else f"colour space {image.colorSpace}"
        return feature.name, [1, image.height, image.width, 3], kind
    array = feature.type.multiArrayType
    kind = _TYPES.get(array.dataType, str(array.dataType))
    return feature.name, list(array.shape), kind


def _rounded(graph: Graph, quantize: str, rounding: Mapping[str, Any]) -> Any:
    """Round the weights of a converted graph, all but those of `keep_float`."""
    model = _convert(graph, quantize)
    with quiet():
        import coremltools.optimize.coreml as optimize

        settings = optimize.OpLinearQuantizerConfig(
            mode="linear_symmetric", weight_threshold=_SMALL, **rounding
        )
        kept: Any = dict.fromkeys(_weights_of(model, graph.keep_float))
        config = optimize.OptimizationConfig(global_config=settings, op_name_configs=kept)
        return optimize.linear_quantize_weights(model, config)


def _weights_of(model: Any, modules: tuple[str, ...]) -> list[str]:
    """Name the constants that hold these modules' own parameters: `p_` and the dotted name.

    And those of matrices that belong to no layer, as CLIP's projections: nobody has measured what
    their rounding does (see `sensitivity`).
    """
    marks = tuple(f"p_{name.replace('.', '_')}_" for name in modules)
    program = model._mil_program.functions["main"]
    named = [each.name for each in program.find_ops(op_type="const")]
    bare = [each.weight.op.name for each in program.find_ops(op_type="linear")]
    return [name for name in named if marks and name.startswith(marks)] + [
        name for name in bare if not name.startswith("p_")
    ]


class _Picture(nn.Module):
    """A tower with its normalisation inside, of pictures as Core ML hands them over."""

    mean: Tensor
    std: Tensor

    def __init__(self, bytes_: Bytes) -> None:
        super().__init__()
        self.tower = bytes_.tower
        self.register_buffer("mean", bytes_.mean[:, None, None])
        self.register_buffer("std", bytes_.std[:, None, None])

    def forward(self, picture: Tensor) -> Tensor:
        """Embed floats `(1, 3, size, size)` from 0 to 255."""
        return self.tower((picture - self.mean) / self.std)


def _of_pictures(graph: Graph) -> Graph:
    """Let a graph of bytes take pictures instead; the names of its layers stay."""
    (bytes_,) = graph.module.children()
    assert isinstance(bytes_, Bytes)
    floats = graph.inputs.permute(0, 3, 1, 2).float()
    return replace(graph, module=nn.Sequential(_Picture(bytes_)).eval(), inputs=floats)


def _convert(graph: Graph, quantize: str) -> Any:
    """Translate a graph into an ML program, in memory."""
    asked, full = graph.interface, quantize == "none"
    picture = asked["input_dtype"] == "uint8"
    graph = _of_pictures(graph) if picture else graph
    with quiet():
        import coremltools

        program = traced(graph).run_decompositions({})
        pipeline: Any = coremltools.PassPipeline.DEFAULT
        pipeline.remove_passes(_LEFT_OUT)
        facts: dict[str, Any] = {"name": asked["input"], "shape": tuple(graph.example.shape)}
        if picture:
            given = coremltools.ImageType(color_layout=coremltools.colorlayout.RGB, **facts)
        else:
            given = coremltools.TensorType(dtype=np.dtype(asked["input_dtype"]).type, **facts)
        return coremltools.convert(
            program,
            inputs=[given],
            outputs=[coremltools.TensorType(name=asked["output"], dtype=np.float32)],
            convert_to="mlprogram",
            compute_precision=getattr(coremltools.precision, "FLOAT32" if full else "FLOAT16"),
            minimum_deployment_target=coremltools.target[TARGETS[quantize]],
            pass_pipeline=pipeline,
            skip_model_load=True,
        )


def _save(model: Any, graph: Graph, path: Path, quantize: str) -> None:
    """Write the package; its parts' names do not change from one export to the next."""
    model.user_defined_metadata.update(graph.properties)
    model.user_defined_metadata["clip_distill.about"] = ABOUT[quantize]
    with quiet():
        model.save(str(path))
    manifest = path / _MANIFEST
    text = manifest.read_text(encoding="utf-8")
    for drawn, entry in json.loads(text)["itemInfoEntries"].items():
        text = text.replace(drawn, str(uuid.uuid5(uuid.NAMESPACE_URL, entry["path"])).upper())
    # As coremltools itself writes it: whoever opens the package writes it again.
    fixed = json.dumps(json.loads(text), indent=4, sort_keys=True) + "\n"
    manifest.write_text(fixed, encoding="utf-8")
