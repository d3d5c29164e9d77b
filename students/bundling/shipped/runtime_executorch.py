"""A tower in ExecuTorch's runtime. Needs executorch, which brings torch."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from executorch.runtime import Runtime


def open_tower(folder: Path, tower: dict[str, Any]) -> Callable[[np.ndarray], np.ndarray]:
    """Open a tower; the result maps one row of inputs to a unit row `(1, d)`.

    Args:
        folder: the bundle.
        tower: its entry in `metadata.json`.
    """
    program = Runtime.get().load_program(folder / tower["file"])
    method = program.load_method("forward")
    assert method is not None
    dtype = np.dtype(tower["input_dtype"])

    def run(batch: np.ndarray) -> np.ndarray:
        # The runtime's memory is used again by the next call.
        return method.execute([torch.from_numpy(batch.astype(dtype))])[0].numpy().copy()

    return run
