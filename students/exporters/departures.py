"""which layer of a file departs from the model first, when the whole does.

The layers' outputs in the model and in the file are compared in the order of their work, with the
measure of the whole: largest distance, relative to the mean distance between different inputs. A
back end that shows a file's own intermediate values (ONNX: they are made outputs) is asked for
them. From the others nothing but a file's end can be seen: files that end at a layer are written
and run, and the first bad one is found by bisection, as a departure stays to the end.

Left out: layers that are called more than once, or whose output is not one row an input; and what
departs in the whole file alone, as a back end's own optimiser may do: then that is said.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from students.exporters.graph import Graph
from students.exporters.parity import Runner

# Runs a file and returns the outputs of layers, by name, as far as it has them.
Intermediates = Callable[[Graph, Path], Mapping[str, np.ndarray]]
# Writes a graph and opens what it wrote.
Rewrite = Callable[[Graph], Runner]


def first_departure(
    graph: Graph, tolerance: float, *, seen: Mapping[str, np.ndarray] | None, rewrite: Rewrite
) -> str:
    """Say which layer departs first, in words.

    Args:
        graph: what the file was written from.
        tolerance: the relative error above which an output has departed.
        seen: outputs of layers in the file, by module; None where the file does not show any.
        rewrite: writes and opens a file that ends at a layer, where `seen` is None.
    """
    truth = layer_outputs(graph.module, graph.inputs)
    if seen is None:
        return _bisected(graph, truth, tolerance, rewrite)
    errors = {
        name: relative_error(torch.from_numpy(seen[name]).reshape(len(rows), -1), rows)
        for name, rows in truth.items()
        if name in seen and seen[name].size == rows.numel()
    }
    for name, error in errors.items():
        if not error <= tolerance:
            return f"the first layer to depart is {_named(name)}: relative error {error:.2e}"
    return (
        f"none of the {len(errors)} layers that could be compared departs: what follows them does"
    )


def layer_outputs(module: nn.Module, inputs: Tensor) -> dict[str, Tensor]:
    """Return the flat output rows of each innermost module, in the order of their work."""
    found: dict[str, Tensor] = {}
    again: set[str] = set()

    def keep(name: str, made: Any) -> None:
        rows = _first(made)
        if not isinstance(rows, Tensor) or rows.ndim < 2 or len(rows) != len(inputs):
            return
        again.update({name} & set(found))
        found[name] = rows.detach().reshape(len(rows), -1).float()

    hooks = [
        layer.register_forward_hook(lambda _, __, made, name=name: keep(name, made))
        for name, layer in module.named_modules()
        if _innermost(layer)
    ]
    try:
        with torch.no_grad():
            module(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return {name: rows for name, rows in found.items() if name not in again}


def relative_error(given: Tensor, truth: Tensor) -> float:
    """Return the largest distance between rows, relative to the mean distance between inputs."""
    spread = torch.pdist(truth).mean().item()
    distance = (given - truth).norm(dim=-1).max().item()
    return distance / spread if spread > 0 else (0.0 if distance == 0 else float("inf"))


def _bisected(graph: Graph, truth: Mapping[str, Tensor], tolerance: float, rewrite: Rewrite) -> str:
    """Find the first layer at which a file that ends there departs."""
    names = list(truth)
    good, bad, errors = -1, len(names), {}
    while bad - good > 1:
        at = (good + bad) // 2
        name = names[at]
        try:
            run = rewrite(_up_to(graph, name))
            rows = torch.from_numpy(run(graph.inputs.numpy())).reshape(len(truth[name]), -1)
        except Exception as error:  # a converter's own: the failed check is what must be told
            return f"which layer departs first cannot be told: up to {_named(name)}, {error}"
        errors[at] = relative_error(rows, truth[name])
        good, bad = (at, bad) if errors[at] <= tolerance else (good, at)
    if bad == len(names):
        return "files that end at a layer agree up to the last one: only the whole departs"
    return f"the first layer to depart is {_named(names[bad])}: relative error {errors[bad]:.2e}"


def _up_to(graph: Graph, layer: str) -> Graph:
    kept = tuple(f"module.{name}" for name in graph.keep_float)
    return replace(graph, module=_Prefix(graph.module, layer).eval(), keep_float=kept)


class _Prefix(nn.Module):
    """A module up to one of its layers: inputs to that layer's flat output rows."""

    def __init__(self, module: nn.Module, layer: str) -> None:
        super().__init__()
        self.module = module
        self.layer = layer

    def forward(self, inputs: Tensor) -> Tensor:
        kept: list[Tensor] = []
        layer = self.module.get_submodule(self.layer)
        hook = layer.register_forward_hook(lambda _, __, made: kept.append(_first(made)))
        try:
            # To the end, as torch.export counts modules in and out; what nothing uses it drops.
            self.module(inputs)
        finally:
            hook.remove()
        return kept[0].flatten(1)


def _innermost(layer: nn.Module) -> bool:
    """Tell whether to look at a module's output; attention calls its parts' weights, not them."""
    return isinstance(layer, nn.MultiheadAttention) or next(layer.children(), None) is None


def _first(made: Any) -> Any:
    return made[0] if isinstance(made, tuple) else made


def _named(name: str) -> str:
    """A layer's name as the student's module has it."""
    return name.removeprefix("0.").removeprefix("tower.").removeprefix("module.")
