"""A tower in LiteRT. Needs ai-edge-litert."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter


def open_tower(folder: Path, tower: dict[str, Any]) -> Callable[[np.ndarray], np.ndarray]:
    """Open a tower; the result maps one row of inputs to a unit row `(1, d)`.

    Args:
        folder: the bundle.
        tower: its entry in `metadata.json`.
    """
    interpreter: Any = Interpreter(str(folder / tower["file"]), num_threads=1)
    interpreter.allocate_tensors()
    (given,), (made,) = interpreter.get_input_details(), interpreter.get_output_details()
    dtype = np.dtype(tower["input_dtype"])

    def run(batch: np.ndarray) -> np.ndarray:
        interpreter.set_tensor(given["index"], batch.astype(dtype))
        interpreter.invoke()
        return interpreter.get_tensor(made["index"])

    return run
