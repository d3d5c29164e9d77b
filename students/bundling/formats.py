"""What each format's bundle has beside the files that all have: its runtime and its snippets."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType


@dataclass(frozen=True, kw_only=True)
class BundleFormat:
    """One format.

    Attributes:
        name: what people call it.
        runtime: the Python file that opens a tower, in `shipped/`; it becomes `runtime.py`.
        requirements: what the sample needs, numpy and Pillow aside.
        snippets: more files of `shipped/` -> (name in the bundle, what the card says of it).
        beside: more files of the export -> what the card says of them.
        page: whether there is a web page.
        on: where the sample runs.
    """

    name: str
    runtime: str
    requirements: tuple[str, ...]
    snippets: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    beside: Mapping[str, str] = field(default_factory=dict)
    page: bool = False
    on: str = "Linux, macOS and Windows"


BUNDLE_FORMATS: Mapping[str, BundleFormat] = MappingProxyType(
    {
        "onnx": BundleFormat(
            name="ONNX Runtime",
            runtime="runtime_onnx.py",
            requirements=("onnxruntime",),
            snippets={"ClipOnnx.kt": ("Clip.kt", "the same on Android, with ONNX Runtime Mobile")},
            page=True,
        ),
        "ort": BundleFormat(
            name="ONNX Runtime Mobile",
            runtime="runtime_onnx.py",
            requirements=("onnxruntime",),
            snippets={"ClipOnnx.kt": ("Clip.kt", "the same on Android")},
            beside={
                "required_operators.config": (
                    "for ONNX Runtime's `build.py --minimal_build --include_ops_by_config`: the "
                    "operators that the export's files need, and no others"
                )
            },
        ),
        "executorch": BundleFormat(
            name="ExecuTorch",
            runtime="runtime_executorch.py",
            # executorch imports torch and does not ask for it.
            requirements=("executorch", "torch"),
            snippets={"ClipExecuTorch.kt": ("Clip.kt", "the same on Android")},
            on="Linux and macOS",
        ),
        "litert": BundleFormat(
            name="LiteRT",
            runtime="runtime_litert.py",
            requirements=("ai-edge-litert",),
            snippets={"ClipLiteRT.kt": ("Clip.kt", "the same on Android")},
            on="Linux and macOS",
        ),
        "coreml": BundleFormat(
            name="Core ML",
            runtime="runtime_coreml.py",
            requirements=("coremltools",),
            snippets={"Clip.swift": ("Clip.swift", "the same on iOS and macOS")},
            on="macOS",
        ),
    }
)
