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
        pinned: distributions whose present versions are noted in `metadata.json`.
        extras: more files of `shipped/` that this format gets -> what the card says of them.
        on: where the sample runs.
    """

    name: str
    runtime: str
    requirements: tuple[str, ...]
    pinned: tuple[str, ...]
    extras: Mapping[str, str] = field(default_factory=dict)
    on: str = "Linux, macOS and Windows"


BUNDLE_FORMATS = MappingProxyType(
    {
        "onnx": BundleFormat(
            name="ONNX Runtime",
            runtime="runtime_onnx.py",
            requirements=("onnxruntime",),
            pinned=("onnx", "onnxruntime"),
            extras=MappingProxyType(
                {
                    "index.html": "a web page that runs the student on a picture or the camera",
                    "clip.js": "the same for your own page: towers, with words.js and resize.js",
                    "Clip.kt": "the same on Android, with ONNX Runtime Mobile",
                    "page.js": "",
                    "page.css": "",
                    "words.js": "",
                    "resize.js": "",
                }
            ),
        ),
    }
)
