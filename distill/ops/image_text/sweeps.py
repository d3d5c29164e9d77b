"""The implementations by name, and which one `auto` means."""

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from distill.ops.image_text import tiled
from distill.ops.image_text.problem import Gradients, Problem, Statistics


@runtime_checkable
class Sweeps(Protocol):
    """A module that fulfils the contract of `problem.py`."""

    def statistics(self, problem: Problem, /) -> Statistics:
        """Sweep 1."""
        ...

    def gradients(
        self,
        problem: Problem,
        statistics: Statistics,
        grad_contrastive: Float[Tensor, ""],
        grad_affinity: Float[Tensor, ""],
        /,
    ) -> Gradients:
        """Sweep 2."""
        ...

    def one_sweep(self, problem: Problem, /) -> tuple[Statistics, Gradients]:
        """Both, for the hard sigmoid loss."""
        ...


# Logits of one call, all matrices together, above which tiles beat autograd on a CPU, where both
# were measured; docs/image-text-loss.md says how. Below, small operations cost more than they save.
CPU_CROSSOVER = 1 << 20


def chosen(impl: str, problem: Problem, grouped: bool) -> str:
    """What `impl` means for this problem; `auto` looks at the device and at the size."""
    if impl != "auto":
        return impl
    if problem.image.device.type == "cuda" and problem.dtype == torch.float32:
        return "triton"
    logits = problem.image.shape[0] * problem.text.shape[0] * (1 + len(problem.sources))
    large = problem.image.device.type != "cpu" or logits >= CPU_CROSSOVER
    return "tiled" if grouped or large else "reference"


def sweeps_of(impl: str) -> Sweeps:
    """Return the module behind a name that `chosen` gave."""
    if impl == "triton":
        # Here, because Triton is there on some machines only.
        from distill.ops.image_text import triton_problem

        return triton_problem
    assert impl == "tiled"
    return tiled
