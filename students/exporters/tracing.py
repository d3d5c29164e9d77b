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
    """Trace a graph; what asked for a memory layout asks for the plain one."""
    program = torch.export.export(graph.module, (graph.example,))
    module = program.module()
    assert isinstance(module, fx.GraphModule)
    if not _plain(module):
        return program
    module.recompile()
    return torch.export.export(module, (graph.example,))


def _plain(module: fx.GraphModule) -> bool:
    """Ask for the plain layout everywhere; returns whether another one was asked for."""
    changed = False
    for node in module.graph.nodes:
        given = (*node.args, *node.kwargs.values())
        if any(value is torch.channels_last for value in given):
            node.args = tuple(map(_one_plain, node.args))
            node.kwargs = {name: _one_plain(value) for name, value in node.kwargs.items()}
            changed = True
    return changed


def _one_plain(value: Any) -> Any:
    return torch.contiguous_format if value is torch.channels_last else value
