"""ExecuTorch: `.pte` files whose work XNNPACK does, on Android, iOS and desktops.

What XNNPACK does not take (the token table's look-up, the end token's `argmax`) runs in
ExecuTorch's portable kernels, which every runtime build has.
"""

from pathlib import Path

import torch
from torch import nn

from students.exporters.graph import Graph
from students.exporters.parity import Runner
from students.exporters.quiet import quiet, quiet_natively
from students.exporters.tracing import flat


def write(graph: Graph, path: Path) -> None:
    """Write float32."""
    save(flat(graph), graph, path)


def save(module: nn.Module, graph: Graph, path: Path) -> None:
    """Lower a module that stands for a graph's to XNNPACK, and write it."""
    program = torch.export.export(module, (graph.example,))
    # Deprecated importlib.resources, and what lowering says of torch's internals.
    with quiet():
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower

        edge = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
        path.write_bytes(edge.to_executorch().buffer)


def open_file(path: Path, *, threads: int = 1) -> Runner:
    """Load a file into ExecuTorch's runtime; it takes its own number of threads."""
    with quiet():
        from executorch.runtime import Runtime

    with quiet_natively():  # of the phone's processor that it looks for on every machine
        method = Runtime.get().load_program(path).load_method("forward")
    assert method is not None
    # The output lies in memory that the next call overwrites.
    return lambda batch: method.execute([torch.from_numpy(batch)])[0].numpy().copy()
