"""A tower in Core ML, on macOS. Needs coremltools."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import coremltools
import numpy as np
from PIL import Image


def open_tower(folder: Path, tower: dict[str, Any]) -> Callable[[np.ndarray], np.ndarray]:
    """Open a tower; the result maps one row of inputs to a unit row `(1, d)`.

    Args:
        folder: the bundle.
        tower: its entry in `metadata.json`.
    """
    if sys.platform != "darwin":
        raise SystemExit("Core ML runs on macOS only; elsewhere try the ONNX bundle")
    model = coremltools.models.MLModel(str(folder / tower["file"]))
    dtype = np.dtype(tower["input_dtype"])

    def run(batch: np.ndarray) -> np.ndarray:
        # A tower that normalises itself takes an image.
        given = Image.fromarray(batch[0]) if dtype == np.uint8 else batch.astype(dtype)
        made = model.predict({tower["input"]: given})
        return np.asarray(made[tower["output"]], dtype=np.float32)

    return run
