"""What the layers of an ONNX file give: its intermediate values made outputs.

torch.onnx notes which module each node came from; a layer's output is that of the last node inside
it. The shipped file does not carry those notes, but its values have the same names.
"""

import ast
from pathlib import Path

import numpy as np
import torch

from students.exporters.graph import Graph
from students.exporters.onnx import NAME_SCOPES, open_model, to_program


def intermediates(graph: Graph, path: Path) -> dict[str, np.ndarray]:
    """Run a file on the graph's inputs; returns outputs of modules, by name, that it has."""
    import onnx

    last: dict[str, str] = {}
    for node in to_program(graph).model.graph:
        for scope in ast.literal_eval(node.metadata_props.get(NAME_SCOPES, "[]")):
            last[scope] = node.outputs[0].name or ""
    model = onnx.load(path)
    made = {name for node in model.graph.node for name in node.output}
    wanted = {module: value for module, value in last.items() if module and value in made}
    ends = {output.name for output in model.graph.output}
    values = sorted(set(wanted.values()) - ends)
    model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in values)
    session = open_model(model.SerializeToString())
    names = [output.name for output in session.get_outputs()]
    rows, inputs = graph.batch_size or len(graph.inputs), graph.inputs
    filled = torch.cat([inputs, inputs[-1:].expand(-len(inputs) % rows, *inputs.shape[1:])])
    parts = [
        session.run(None, {graph.interface["input"]: part.numpy()}) for part in filled.split(rows)
    ]
    found = {
        name: np.concatenate([part[i] for part in parts])[: len(inputs)]
        for i, name in enumerate(names)
        if parts[0][i].ndim
    }
    return {module: found[value] for module, value in wanted.items() if value in found}
