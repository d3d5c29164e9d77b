"""Which formats there are, what each can quantise to, and what it needs: one table.

A combination that is not in the table does not exist; asking for it is refused before any work.
"""

import importlib.util
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from torch import nn

from students.exporters import (
    coreml,
    executorch,
    executorch_quantized,
    litert,
    litert_quantized,
    onnx,
    onnx_layers,
    onnx_quantized,
    onnx_weights,
    ort,
)
from students.exporters.departures import Intermediates
from students.exporters.graph import Graph
from students.exporters.parity import Runner
from students.exporters.sensitivity import LAYERS
from teachers.suggestions import unknown_name

# The largest relative error let through, by precision; distances between rows, in units of the mean
# distance between different inputs. int8's lies between files that lost about a point of zero-shot
# top-1 at most and one that lost more, all of students trained on glyphs. By the error of the worse
# tower: up to 0.051 (wide-* in benchmarks/results/quantised.csv) 1.1 points at most and 0.4 on
# average, 0.064 1.0, 0.069 0.55, 0.12 2.5. What another student loses, its metric says
# (`export(metric=)`).
# The others' are half as much again as what was measured there, and more: dynamic-int8 0.015, fp16
# 0.0015, 4bit-weights 0.088.
TOLERANCES: Mapping[str, float] = MappingProxyType(
    {"none": 1e-4, "fp16": 1e-2, "int8": 0.1, "dynamic-int8": 0.1, "4bit-weights": 0.15}
)
QUANTIZATIONS = tuple(TOLERANCES)
# Of the precisions that round weights to integers.
WEIGHT_BITS = {"int8": 8, "dynamic-int8": 8, "4bit-weights": 4}
# Of these, numbers that share a scale; else all of an output channel do.
WEIGHT_BLOCKS = {"4bit-weights": 32}
Write = Callable[[Graph, Path], None]


@dataclass(frozen=True, kw_only=True)
class Format:
    """A back end.

    Attributes:
        suffix: of its files.
        packages: the modules it imports, and the distribution each comes with.
        extra: what to install to have them.
        any_batch: whether a file takes any number of rows; else it has a fixed number.
        token_dtype: what token ids are in its text files.
        write: how to write each quantisation that exists here.
        open: loads a file in the format's own runtime, with `threads=`; None where none runs on
            this machine.
        runtime: the module that runs files.
        own_threads: whether the runtime takes its own number of threads, whatever it is told.
        intermediates: shows what a file's layers give, where the runtime can (see `departures`).
        inspect: checks a file's structure, in the precision it was asked for.
        image_inputs: whether picture files that normalise themselves take one image a call.
        runs_on: the only system that has the runtime, where there is only one.
        float_activations: precisions that here round weights only.
        four_bits: kinds of layers that have 4 bits in 4bit-weights; the others have 8.
        about: what a precision means here, where its name does not say it all.
    """

    suffix: str
    packages: Sequence[str]
    extra: str
    any_batch: bool
    token_dtype: str
    write: Mapping[str, Write]
    open: Callable[..., Runner] | None
    runtime: str = ""
    own_threads: bool = False
    intermediates: Intermediates | None = None
    inspect: Callable[[Graph, Path, str], None] | None = None
    image_inputs: bool = False
    runs_on: str = ""
    float_activations: Sequence[str] = ("fp16", "4bit-weights")
    four_bits: tuple[type[nn.Module], ...] = LAYERS
    about: Mapping[str, str] = field(default_factory=dict)


# XNNPACK, which both use, has no 4-bit convolutions with blocks.
_LINEAR = (nn.Linear, nn.Embedding, nn.MultiheadAttention)

FORMATS: Mapping[str, Format] = MappingProxyType(
    {
        "onnx": Format(
            suffix=".onnx",
            packages=("onnx", "onnxruntime", "onnxscript"),
            extra="onnx",
            any_batch=True,
            token_dtype="int64",
            write={
                "none": onnx.write,
                "fp16": onnx_weights.write_fp16,
                "int8": onnx_quantized.write_int8,
                "dynamic-int8": onnx_quantized.write_dynamic_int8,
                "4bit-weights": onnx_weights.write_4bit_weights,
            },
            open=onnx.open_file,
            runtime="onnxruntime",
            intermediates=onnx_layers.intermediates,
            about=onnx_weights.ABOUT,
        ),
        "ort": Format(
            suffix=".ort",
            packages=("onnx", "onnxruntime", "onnxscript"),
            extra="onnx",
            any_batch=True,
            token_dtype="int64",
            write={
                "none": ort.write,
                "int8": ort.write_int8,
                "dynamic-int8": ort.write_dynamic_int8,
            },
            open=onnx.open_file,
            runtime="onnxruntime",
            about=onnx_weights.ABOUT,
        ),
        "executorch": Format(
            suffix=".pte",
            packages=("executorch",),
            extra="mobile",
            any_batch=False,
            token_dtype="int64",
            write={
                "none": executorch.write,
                "fp16": executorch_quantized.write_fp16,
                "int8": executorch_quantized.write_int8,
                "dynamic-int8": executorch_quantized.write_dynamic_int8,
                "4bit-weights": executorch_quantized.write_4bit_weights,
            },
            open=executorch.open_file,
            float_activations=("fp16",),
            four_bits=_LINEAR,
            about=executorch_quantized.ABOUT,
            runtime="executorch.runtime",
            own_threads=True,
        ),
        "litert": Format(
            suffix=".tflite",
            packages=("litert_torch", "ai_edge_litert"),
            extra="mobile",
            any_batch=False,
            token_dtype="int32",
            write={
                "none": litert.write,
                "fp16": litert_quantized.write_fp16,
                "int8": litert_quantized.write_int8,
                "dynamic-int8": litert_quantized.write_dynamic_int8,
                "4bit-weights": litert_quantized.write_4bit_weights,
            },
            open=litert.open_file,
            float_activations=("fp16",),
            four_bits=_LINEAR,
            about=litert_quantized.ABOUT,
            runtime="ai_edge_litert.interpreter",
        ),
        "coreml": Format(
            suffix=".mlpackage",
            packages=("coremltools",),
            extra="mobile",
            any_batch=False,
            token_dtype="int32",
            write={
                "none": coreml.write,
                "fp16": coreml.write_fp16,
                "int8": coreml.write_int8,
                "4bit-weights": coreml.write_4bit_weights,
            },
            open=coreml.open_file if sys.platform == "darwin" else None,
            runtime="coremltools",
            inspect=coreml.inspect,
            image_inputs=True,
            runs_on="macOS",
            float_activations=("fp16", "int8", "4bit-weights"),
            about=coreml.ABOUT,
        ),
    }
)


class Variant(NamedTuple):
    """One format in one precision."""

    format: str
    quantize: str

    @property
    def backend(self) -> Format:
        """The format's row of the table."""
        return FORMATS[self.format]

    def file(self, graph: str) -> str:
        """Name a graph's file, relative to the export folder."""
        middle = "" if self.quantize == "none" else f".{self.quantize}"
        return f"{self.format}/{graph}{middle}{self.backend.suffix}"

    def __str__(self) -> str:
        """Write it as it is asked for."""
        return self.format if self.quantize == "none" else f"{self.format}:{self.quantize}"


def variants(
    formats: Sequence[str],
    quantize: Sequence[str],
    *,
    inside: bool = False,
    batch_size: int | None = None,
) -> list[Variant]:
    """Read what was asked for; FORMAT stands for all of `quantize`, FORMAT:QUANTIZE for itself.

    Args:
        formats: as the user names them.
        quantize: for those that name no precision.
        inside: whether picture files are to normalise bytes themselves.
        batch_size: rows a call, where they are to be fixed.

    Raises:
        ValueError: for an unknown name, a combination that does not exist, or a missing package.
    """
    asked: dict[Variant, None] = {}
    for text in _apart(formats):
        name, colon, own = text.partition(":")
        for each in (own,) if colon else _apart(quantize):
            _check_known(name, each)
            asked[Variant(name, each)] = None
    if not asked:
        raise unknown_name("export format", "", FORMATS)
    for name in {variant.format: None for variant in asked}:
        if inside and FORMATS[name].image_inputs and (batch_size or 1) > 1:
            raise ValueError(
                f"{name} files that normalise pictures themselves take one image a call, not "
                f"{batch_size}: leave out --batch-size or --preprocessing-inside"
            )
        _check_installed(name)
    return list(asked)


def _apart(names: Sequence[str]) -> list[str]:
    """Take names apart that were written with commas."""
    return [name for text in names for part in text.split(",") if (name := part.strip())]


def _check_known(name: str, quantize: str) -> None:
    if name not in FORMATS:
        raise unknown_name("export format", name, FORMATS)
    if quantize not in QUANTIZATIONS:
        raise unknown_name("quantisation", quantize, QUANTIZATIONS)
    if quantize not in FORMATS[name].write:
        others = ", ".join(other for other, row in FORMATS.items() if quantize in row.write)
        raise ValueError(
            f"{name} has no {quantize}, which {others} has; it has "
            f"{', '.join(FORMATS[name].write)}. Write FORMAT:QUANTIZE (as in "
            f"{name}:{next(iter(FORMATS[name].write))}) to quantise formats differently in one "
            "export"
        )


def _check_installed(name: str) -> None:
    backend = FORMATS[name]
    for package in backend.packages:
        if importlib.util.find_spec(package) is None:
            raise ValueError(
                f'exporting to {name} needs {package}: pip install "clip-distill[{backend.extra}]"'
            )


def runner(variant: Variant, path: Path, interface: Mapping[str, Any]) -> Runner:
    """Open a file so that it takes any number of rows, whatever it was made for."""
    assert variant.backend.open is not None
    run = variant.backend.open(path)
    rows, dtype = interface["input_shape"][0], interface["input_dtype"]

    def whole(batch: np.ndarray) -> np.ndarray:
        size = len(batch) if rows == "n" else rows
        parts = []
        for start in range(0, len(batch), size):
            part = batch[start : start + size].astype(dtype)
            filled = np.concatenate([part, part[-1:].repeat(size - len(part), axis=0)])
            parts.append(run(filled)[: len(part)])
        return np.concatenate(parts)

    return whole
