"""What one exported file computes: a tower as a plain module, with its input and output named.

Left out: resizing and cropping, which platforms do in their own image libraries.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from students.student import Student

GraphName = Literal["image", "text", "zero_shot"]
INPUT_NAMES: Mapping[GraphName, str] = {"image": "pixels", "text": "tokens", "zero_shot": "pixels"}
OUTPUT_NAMES: Mapping[GraphName, str] = {
    "image": "image_embedding",
    "text": "text_embedding",
    "zero_shot": "logits",
}


@dataclass(frozen=True, kw_only=True)
class Graph:
    """One file to write.

    Attributes:
        name: which graph it is.
        module: input to output, in evaluation mode, on the CPU, in float32.
        inputs: prepared samples, two rows at least; quantisation calibrates on them.
        batch_size: rows a call; None is any number.
        interface: shapes, types and names, as metadata.json has them.
        facts: what the file says of itself.
        keep_float: modules inside `module` that quantisation leaves out.
    """

    name: GraphName
    module: nn.Module
    inputs: Tensor
    batch_size: int | None
    interface: Mapping[str, Any]
    facts: Mapping[str, Any]
    keep_float: tuple[str, ...] = ()

    @property
    def example(self) -> Tensor:
        """Inputs to trace with: two rows where the batch is free, as one is taken for fixed."""
        rows = self.batch_size or 2
        repeated = self.inputs.repeat(-(-rows // len(self.inputs)), *[1] * (self.inputs.ndim - 1))
        return repeated[:rows].contiguous()

    def batches(self) -> list[Tensor]:
        """Return the inputs as whole calls; a remainder that fills none is left out."""
        rows = self.batch_size or 1
        whole = [part for part in self.inputs.split(rows) if len(part) == rows]
        return whole or [self.example]

    @property
    def properties(self) -> dict[str, str]:
        """Flatten for formats that keep only strings."""
        values = {**self.facts, **self.interface, "tower": self.name}
        return {f"clip_distill.{key}": json.dumps(value) for key, value in values.items()}


class Bytes(nn.Module):
    """Normalise pictures as bytes, then run the tower: preprocessing inside the file."""

    mean: Tensor
    std: Tensor

    def __init__(self, tower: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        """Keep mean and deviation in units of bytes."""
        super().__init__()
        self.tower = tower
        self.register_buffer("mean", torch.tensor(mean) * 255)
        self.register_buffer("std", torch.tensor(std) * 255)

    def forward(self, pictures: UInt8[Tensor, "n h w 3"]) -> Float[Tensor, "n d"]:
        """Embed bytes."""
        return self.tower(((pictures.to(self.mean) - self.mean) / self.std).permute(0, 3, 1, 2))


class ZeroShot(nn.Module):
    """An image tower with a fixed label set: `scale * image @ classes.T (+ bias)`."""

    classes: Tensor

    def __init__(self, tower: nn.Module, classes: Tensor, scale: float, bias: float) -> None:
        """Fold the scale into the class vectors `(classes, d)`."""
        super().__init__()
        self.tower = tower
        self.bias = bias
        self.register_buffer("classes", classes * scale)

    def forward(self, pixels: Tensor) -> Float[Tensor, "n classes"]:
        """Score every class."""
        return self.tower(pixels) @ self.classes.float().T + self.bias


def interface(
    student: Student,
    name: GraphName,
    *,
    batch_size: int | None,
    token_dtype: str,
    inside: bool,
    num_classes: int,
) -> dict[str, Any]:
    """Return a file's input and output as JSON values."""
    size, rows = student.preprocess.image_size, batch_size or "n"
    if name == "text":
        shape, dtype = [rows, student.tokenizer.context_length], token_dtype
    elif inside:
        shape, dtype = [rows, size, size, 3], "uint8"
    else:
        shape, dtype = [rows, 3, size, size], "float32"
    return {
        "input": INPUT_NAMES[name],
        "input_shape": shape,
        "input_dtype": dtype,
        "output": OUTPUT_NAMES[name],
        "output_shape": [rows, num_classes if name == "zero_shot" else student.embed_dim],
        "output_dtype": "float32",
    }
