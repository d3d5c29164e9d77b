"""A student that computes in training with the numbers that its integer files will have.

Quantisation-aware training after Jacob et al. (arXiv:1712.05877): weights, and what layers are
given, are rounded in the forward pass as exporters round them, and gradients pass as if nothing had
been. The student keeps its float weights and its modules; what it learns is to bear the rounding. A
weight's scale is its output channel's largest magnitude, so that the BatchNorm that exporters fold
into a convolution, which multiplies whole channels, changes nothing. What a layer is given has the
range that it has in the batch.

Left out: learned step sizes (LSQ, arXiv:1902.08153), as exporters measure ranges themselves;
branches that fold into one convolution, whose inputs alone are rounded, as only their sum is
rounded in a file; the last projection of open_clip's towers; processes sharing their ranges.
torchao's own QAT rounds linear layers only, and its PT2E flow gives back a traced graph instead of
a student.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from torch import Tensor, nn
from torch.func import functional_call

from students.exporters.formats import WEIGHT_BITS, WEIGHT_BLOCKS
from students.exporters.sensitivity import LAYERS, round_activations, round_weights
from students.student import Student
from teachers.contract import Embeddings

_FOLDS = ("fuse", "reparameterize", "switch_to_deploy")
Precision = Literal["none", "int8", "4bit-weights"]


class Rounding:
    """Calls a student with rounded weights and, for int8, rounded inputs of its layers.

    Args:
        student: left as it is, between calls too.
        precision: of the files: "int8", or "4bit-weights", which rounds weights alone.
    """

    def __init__(self, student: Student, precision: Precision) -> None:
        """Find the layers and their weights."""
        self.student = student
        self.bits, self.block = WEIGHT_BITS[precision], WEIGHT_BLOCKS.get(precision)
        self.activations = precision == "int8"
        inside = tuple(f"module.{name}." for name in branching(student.module))
        self.layers = [m for m in student.modules() if isinstance(m, LAYERS)]
        self.weights = [
            f"{name}.{own}"
            for name, layer in student.named_modules()
            if isinstance(layer, LAYERS) and not f"{name}.".startswith(inside)
            for own, value in layer.named_parameters(recurse=False)
            if value.ndim >= 2
        ]

    def __call__(self, images: Tensor, tokens: Tensor) -> Embeddings:
        """Embed as `student(images, tokens)` does; gradients reach its own parameters."""
        own = dict(self.student.named_parameters(remove_duplicate=False))
        rounded = {name: self._weight(own[name]) for name in self.weights}
        with self._rounded_inputs():
            return functional_call(self.student, rounded, (images, tokens))

    def _weight(self, value: Tensor) -> Tensor:
        exact = value.detach()
        return straight_through(value, round_weights(exact, bits=self.bits, block=self.block))

    @contextmanager
    def _rounded_inputs(self) -> Iterator[None]:
        """Round what layers are given, for a while; tables are given indices."""
        hooks = []
        if self.activations:
            hooks = [
                layer.register_forward_pre_hook(_round_inputs)
                for layer in self.layers
                if not isinstance(layer, nn.Embedding)
            ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


def branching(module: nn.Module) -> list[str]:
    """Name the innermost modules that timm folds several layers or norms of into one."""
    found = []
    for name, part in module.named_modules():
        layers = sum(isinstance(each, LAYERS) for each in part.modules())
        norms = sum(isinstance(each, nn.BatchNorm2d) for each in part.modules())
        if any(hasattr(part, fold) for fold in _FOLDS) and max(layers, norms) > 1:
            found.append(name)
    return [
        name
        for name in found
        if not any(each != name and each.startswith(name and f"{name}.") for each in found)
    ]


def straight_through(value: Tensor, rounded: Tensor) -> Tensor:
    """`rounded` in the forward pass, `value` in the backward pass (arXiv:1308.3432)."""
    return value + (rounded - value).detach()


def _round_inputs(layer: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(straight_through(each, round_activations(each.detach())) for each in given)
