"""ONNX Runtime's own file format, `.ort`: what its mobile builds read.

The graph is optimised when it is written, for any processor, since those builds may not be able to
do it later. Beside the files lies `required_operators.config`: ONNX Runtime built with
`--minimal_build --include_ops_by_config` of it has these operators and no others. Left out: fp16
weights, whose casts the optimiser would fold into float32 again, and 4-bit ones, which the format
cannot hold.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path

from students.exporters import onnx, onnx_quantized
from students.exporters.graph import Graph
from students.exporters.quiet import quiet

CONFIG_FILE = "required_operators.config"


def write(graph: Graph, path: Path) -> None:
    """Write float32."""
    _write(onnx.write, graph, path)


def write_int8(graph: Graph, path: Path) -> None:
    """Write calibrated int8, as `onnx_quantized.write_int8`."""
    _write(onnx_quantized.write_int8, graph, path)


def write_dynamic_int8(graph: Graph, path: Path) -> None:
    """Write dynamic int8, as `onnx_quantized.write_dynamic_int8`."""
    _write(onnx_quantized.write_dynamic_int8, graph, path)


def _write(write_onnx: Callable[[Graph, Path], None], graph: Graph, path: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "graph.onnx"
        write_onnx(graph, source)
        _convert(source, path)
    write_config(path.parent)


def _convert(source: Path, path: Path) -> None:
    """Save the optimised graph, without what is good on this machine's processor only."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(path)
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.add_session_config_entry("session.save_model_format", "ORT")
    onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def write_config(folder: Path) -> None:
    """List the operators that a folder's `.ort` files need together."""
    target, files = folder / CONFIG_FILE, sorted(folder.glob("*.ort"))
    with quiet():
        from onnxruntime.tools.ort_format_model import create_config_from_models

        create_config_from_models(files, target, enable_type_reduction=False)
    lines = target.read_text(encoding="utf-8").splitlines(keepends=True)
    # Its own comment names files by their place on this machine.
    kept = [line for line in lines if not line.startswith("#")]
    names = "".join(f"# {path.name}\n" for path in files)
    target.write_text(names + "".join(kept), encoding="utf-8")
