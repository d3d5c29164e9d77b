"""ExecuTorch: `.pte` files whose work XNNPACK does, on Android, iOS and desktops.

What XNNPACK does not take (the token table's look-up, the end token's `argmax`) runs in
ExecuTorch's portable kernels, which every runtime build has.
"""

import warnings
from pathlib import Path

import torch
from torch.export import ExportedProgram

from students.exporters.graph import Graph
from students.exporters.parity import Runner
from students.exporters.tracing import traced


def write(graph: Graph, path: Path) -> None:
    """Write float32."""
    save(traced(graph), path)


def save(program: ExportedProgram, path: Path) -> None:
    """Lower an exported program to XNNPACK and write it."""
    with warnings.catch_warnings():
        # Its own: deprecated importlib.resources, and what lowering says of torch's internals.
        warnings.simplefilter("ignore")
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower

        edge = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
        path.write_bytes(edge.to_executorch().buffer)


def open_file(path: Path, *, threads: int = 1) -> Runner:
    """Load a file into ExecuTorch's runtime; it takes its own number of threads."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from executorch.runtime import Runtime

    method = Runtime.get().load_program(path).load_method("forward")
    assert method is not None
    # The output lies in memory that the next call overwrites.
    return lambda batch: method.execute([torch.from_numpy(batch)])[0].numpy().copy()
