"""A graph's module as one flat program, in the plain memory layout.

Training keeps convolutions channels-last, which is quicker on a CPU; XNNPACK chooses its layouts
itself and refuses programs that ask for one. Their numbers are the same.
"""

from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram

from students.exporters.graph import Graph


def traced(graph: Graph) -> ExportedProgram:
    """Trace a graph; what asks for a memory layout asks for the plain one."""
    program = torch.export.export(graph.module, (graph.example,))
    module = _module(program)
    return torch.export.export(module, (graph.example,)) if _plain(module) else program


def flat(graph: Graph) -> fx.GraphModule:
    """Trace a graph likewise, into a module whose operators can be changed."""
    module = _module(torch.export.export(graph.module, (graph.example,)))
    _plain(module)
    return module


def _module(program: ExportedProgram) -> fx.GraphModule:
    module = program.module()
    assert isinstance(module, fx.GraphModule)
    return module


def _plain(module: fx.GraphModule) -> bool:
    """Ask for the plain layout everywhere; returns whether another one was asked for."""
    changed = False
    for node in module.graph.nodes:
        given = (*node.args, *node.kwargs.values())
        if any(value is torch.channels_last for value in given):
            node.args = tuple(map(_one_plain, node.args))
            node.kwargs = {name: _one_plain(value) for name, value in node.kwargs.items()}
            changed = True
    module.recompile()
    return changed


def _one_plain(value: Any) -> Any:
    return torch.contiguous_format if value is torch.channels_last else value
