"""`metadata.json`: what an export holds, in numbers an app can check."""

import hashlib
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from students.exporters.parity import Reference
from students.student import Student

METADATA_FILE = "metadata.json"
_PACKAGES = (
    *("clip-distill", "torch", "timm", "open_clip_torch", "onnx", "onnxruntime"),
    *("executorch", "coremltools", "litert-torch", "ai-edge-litert"),
)


def facts(student: Student) -> dict[str, Any]:
    """Return what a score needs: the scale itself, the bias, the width."""
    bias = student.logit_bias
    return {
        "name": student.name,
        "kind": student.kind,
        "embed_dim": student.embed_dim,
        "logit_scale": student.logit_scale.detach().double().exp().item(),
        "logit_bias": None if bias is None else bias.item(),
        "unit_rows": True,
    }


def metadata(
    student: Student, folder: Path, towers: Sequence[dict[str, Any]], reference: Reference
) -> dict[str, Any]:
    """Describe a folder in which everything else is written already."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        "format": 2,
        **facts(student),
        "preprocessing": student.preprocess.config(),
        "preprocessing_inside": reference.inside,
        "classes": list(reference.classes),
        "towers": list(towers),
        "files": {
            path.relative_to(folder).as_posix(): {
                "bytes": path.stat().st_size,
                "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            }
            for path in files
        },
        "versions": {name: _version(name) for name in _PACKAGES},
    }


def size_of(path: Path) -> int:
    """Return the bytes of a file, or of a folder that counts as one."""
    parts = [path] if path.is_file() else [part for part in path.rglob("*") if part.is_file()]
    return sum(part.stat().st_size for part in parts)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
