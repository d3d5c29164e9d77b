"""LiteRT, once TensorFlow Lite: `.tflite` files for Android and the web.

Token ids are int32: LiteRT has no `argmax` over int64. Left out: smaller files than float32.
"""

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from students.exporters.graph import Graph
from students.exporters.parity import Runner


def write(graph: Graph, path: Path) -> None:
    """Write float32."""
    with _quiet():
        import litert_torch

        litert_torch.convert(graph.module, (graph.example,)).export(str(path))


def open_file(path: Path, *, threads: int = 1) -> Runner:
    """Load a file into LiteRT's interpreter; the result maps a batch of its size to rows."""
    interpreter = _interpreter(path.read_bytes(), threads)
    (given,), (made,) = interpreter.get_input_details(), interpreter.get_output_details()

    def run(batch: np.ndarray) -> np.ndarray:
        interpreter.set_tensor(given["index"], batch)
        interpreter.invoke()
        return interpreter.get_tensor(made["index"])

    return run


def _interpreter(content: bytes, threads: int = 1) -> Any:
    with _quiet():
        from ai_edge_litert.interpreter import Interpreter

        interpreter = Interpreter(model_content=bytes(content), num_threads=threads)
    interpreter.allocate_tensors()
    return interpreter


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hush what the converter prints of its progress, and its libraries' deprecations."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with (
            open(os.devnull, "w") as nowhere,
            contextlib.redirect_stdout(nowhere),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
