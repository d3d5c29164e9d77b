"""The implementations by name, and which one `auto` means."""

import importlib.util
import os
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
CPU_CROSSOVER = 1 << 21


# Read once, at import: a compiler that traces a call need not follow.
_HAS_TRITON = importlib.util.find_spec("triton") is not None
_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


def chosen(impl: str, problem: Problem, grouped: bool) -> str:
    """What `impl` means for this problem; `auto` looks at the device and at the size.

    Triton's kernels have no float64, and a single pair has nothing to launch: both are tiled's.

    Raises:
        ValueError: `impl` is "triton" on a device that it does not run on.
    """
    alone = problem.image.shape[0] == 1 and not grouped
    missing = missing_for_triton(problem.image.device)
    if impl == "triton" and missing:
        raise ValueError(f"impl='triton' needs {missing}; use impl='auto' or 'tiled'")
    on_gpu = problem.image.device.type != "cpu"  # there the interpreter is for who asks for it
    if impl == "triton" or (impl == "auto" and on_gpu and not missing):
        return "tiled" if alone or problem.dtype == torch.float64 else "triton"
    if impl != "auto":
        return impl
    logits = problem.image.shape[0] * problem.text.shape[0] * (1 + len(problem.sources))
    return "tiled" if grouped or on_gpu or logits >= CPU_CROSSOVER else "reference"


def missing_for_triton(device: torch.device) -> str:
    """What the Triton implementation lacks on a device; empty when it runs."""
    if not _HAS_TRITON:
        return "the package triton"
    if device.type == "cpu" and _INTERPRETED:
        return ""
    if device.type != "cuda" or torch.version.cuda is None:
        return f"tensors on an NVIDIA GPU, got {device}"
    properties = torch.cuda.get_device_properties(device)
    if properties.major < 8:
        return f"a GPU of compute capability 8.0 or more, {device} has {properties.major}"
    return ""


def sweeps_of(impl: str) -> Sweeps:
    """Return the module behind a name that `chosen` gave."""
    if impl == "triton":
        # Here, because Triton is there on some machines only.
        from distill.ops.image_text import triton_problem

        return triton_problem
    assert impl == "tiled"
    return tiled
