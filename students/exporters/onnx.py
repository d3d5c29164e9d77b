"""ONNX: one file a graph, through torch.export; run back in ONNX Runtime.

Left out: files above ONNX's 2 GB (no student is that big).
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from students.exporters.graph import Graph
from students.exporters.parity import Runner

# torch.onnx writes here which module each node came from.
NAME_SCOPES = "pkg.torch.onnx.name_scopes"


def write(graph: Graph, path: Path) -> None:
    """Write float32."""
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass

    program = to_program(graph)
    # Every node remembers the Python stack it came from: this machine's paths, in a shipped file.
    ClearMetadataAndDocStringPass()(program.model)
    program.model.metadata_props.update(graph.properties)
    program.save(path, external_data=False)


def to_program(graph: Graph, *, opset: int | None = None) -> torch.onnx.ONNXProgram:
    """Translate a graph, in memory; `opset` is ONNX's version, the exporter's own when None."""
    free = ({0: torch.export.Dim("batch")},) if graph.batch_size is None else None
    program = torch.onnx.export(
        graph.module,
        (graph.example,),
        dynamo=True,
        opset_version=opset,
        verbose=False,
        input_names=[graph.interface["input"]],
        output_names=[graph.interface["output"]],
        dynamic_shapes=free,
    )
    assert program is not None
    return program


def open_file(path: Path, *, threads: int = 1) -> Runner:
    """Load a file into ONNX Runtime; the result maps an input batch to output rows."""
    session = open_model(path, threads=threads)
    name = session.get_inputs()[0].name
    return lambda batch: np.asarray(session.run(None, {name: batch})[0])


def open_model(model: Path | bytes, *, threads: int = 1) -> Any:
    """Load a file, or its content, into ONNX Runtime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
