"""A tower in ONNX Runtime. Needs onnxruntime."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime


def open_tower(folder: Path, tower: dict[str, Any]) -> Callable[[np.ndarray], np.ndarray]:
    """Open a tower; the result maps a batch of inputs to unit rows `(n, d)`.

    Args:
        folder: the bundle.
        tower: its entry in `metadata.json`.
    """
    path = str(folder / tower["file"])
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    dtype = np.dtype(tower["input_dtype"])

    def run(batch: np.ndarray) -> np.ndarray:
        return np.asarray(session.run(None, {tower["input"]: batch.astype(dtype)})[0])

    return run
