"""LiteRT, once TensorFlow Lite: `.tflite` files for Android and the web.

Token ids are int32: LiteRT has no `argmax` over int64.
litert-torch loads JAX, which from then on warns at every fork of the process. Left out: converting
in a process of its own, since each file's would load torch, litert-torch and JAX anew, and the
program would have to be written and read back on the way.
"""

from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from students.exporters.graph import Graph
from students.exporters.parity import Runner
from students.exporters.quiet import quiet


def write(graph: Graph, path: Path) -> None:
    """Write float32."""
    save(graph.module, graph, path)


def save(module: nn.Module, graph: Graph, path: Path) -> None:
    """Convert a module that stands for a graph's, and write it."""
    with quiet():
        import litert_torch

        litert_torch.convert(module, (graph.example,)).export(str(path))


def open_file(path: Path, *, threads: int = 1) -> Runner:
    """Load a file into LiteRT's interpreter; the result maps a batch of its size to rows."""
    loaded = interpreter(path.read_bytes(), threads)
    (given,), (made,) = loaded.get_input_details(), loaded.get_output_details()

    def run(batch: np.ndarray) -> np.ndarray:
        loaded.set_tensor(given["index"], batch)
        loaded.invoke()
        return loaded.get_tensor(made["index"])

    return run


def interpreter(content: bytes, threads: int = 1) -> Any:
    """Load a file's content into LiteRT."""
    with quiet():
        from ai_edge_litert.interpreter import Interpreter

        loaded = Interpreter(model_content=content, num_threads=threads)
    loaded.allocate_tensors()
    return loaded
