"""ONNX: one file a tower, through torch.export, any batch size; run back in ONNX Runtime.

Left out: quantisation, and files above ONNX's 2 GB (no student is that big).
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from students.student import Tower

INPUT_NAMES = {"image": "pixels", "text": "tokens"}
OUTPUT_NAMES = {"image": "image_embedding", "text": "text_embedding"}


def require() -> None:
    """Fail early, and say what to install, when the extra is missing."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ValueError(
            f'exporting to ONNX needs {error.name}: pip install "clip-distill[onnx]"'
        ) from error


def write(tower: Tower, example: Tensor, path: Path, properties: dict[str, str]) -> None:
    """Write one tower.

    Args:
        tower: in evaluation mode, on the CPU.
        example: a batch of its inputs, of two rows at least (one row would be taken for fixed).
        path: the file to write.
        properties: what the file says of itself.
    """
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass

    batch = torch.export.Dim("batch")
    program = torch.onnx.export(
        # torch.export wants to see every parameter, a tower lists only its own; a module around it
        # asks the parts themselves. What the graph does not use is dropped.
        nn.Sequential(tower).eval(),
        (example,),
        dynamo=True,
        verbose=False,
        input_names=[INPUT_NAMES[tower.tower]],
        output_names=[OUTPUT_NAMES[tower.tower]],
        dynamic_shapes=({0: batch},),
    )
    assert program is not None
    # Every node remembers the Python stack it came from: this machine's paths, in a shipped file.
    ClearMetadataAndDocStringPass()(program.model)
    program.model.metadata_props.update(properties)
    program.save(path, external_data=False)


def open_tower(path: Path, *, threads: int = 1) -> Callable[[np.ndarray], np.ndarray]:
    """Load a tower into ONNX Runtime; the result maps an input batch to unit rows."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda batch: np.asarray(session.run(None, {name: batch})[0])
