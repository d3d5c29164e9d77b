"""`export`: a folder with all that an app needs, checked against the model, or no folder at all.

Everything is written into a hidden folder beside the target and renamed into place at the end, so
that an interrupted or failing export leaves nothing that looks finished.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypedDict

import numpy as np
import open_clip
from torch import Tensor

from students.exporters import onnx
from students.exporters.parity import (
    PREPROCESSING_FILE,
    TOKENIZER_FILE,
    Reference,
    Runner,
    Samples,
    made_up_samples,
)
from students.profiling import latency_ms
from students.student import Student, Tower, TowerName
from teachers.contract import Tokenizer
from teachers.suggestions import unknown_name
from teachers.tokenizers import OpenClipTokenizer

METADATA_FILE = "metadata.json"
_PACKAGES = ("clip-distill", "torch", "timm", "open_clip_torch", "onnx", "onnxruntime")


class ExportRow(TypedDict):
    """One shipped tower: `latency_ms` is the median for one row, on one thread."""

    format: str
    tower: TowerName
    path: str
    bytes: int
    relative_error: float
    latency_ms: float


@dataclass(frozen=True, kw_only=True)
class ExportReport:
    """What was written, one row a format and tower."""

    rows: list[ExportRow]


@dataclass(frozen=True, kw_only=True)
class Exporter:
    """A format: how to check that it is installed, write a tower, and run it back."""

    suffix: str
    require: Callable[[], None]
    write: Callable[[Tower, Tensor, Path, dict[str, str]], None]
    open_tower: Callable[[Path], Runner]


FORMATS = MappingProxyType(
    {
        "onnx": Exporter(
            suffix=".onnx",
            require=onnx.require,
            write=onnx.write,
            open_tower=onnx.open_tower,
        )
    }
)


def export(
    student: Student,
    out: str | Path,
    *,
    formats: Sequence[str] = ("onnx",),
    samples: Samples | None = None,
    tolerance: float = 1e-4,
) -> ExportReport:
    """Write a student's towers apart, in inference form, with all that is needed to feed them.

    Args:
        student: what to ship; it is left as it was.
        out: the folder. An earlier export there is replaced once this one is whole.
        formats: what to write; "onnx".
        samples: (Pillow image, text) pairs to check the files on; at best real ones.
        tolerance: the largest relative error let through (see `parity`).

    Raises:
        ValueError: unknown format, missing library, or a folder that holds something else.
        RuntimeError: a file disagrees with the model; nothing is left behind.
    """
    out = Path(out)
    _check_request(out, formats)
    samples = made_up_samples(student.tokenizer) if samples is None else samples
    reference = Reference(student, samples)
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        write_feeding(student, partial)
        rows = _write_towers(student, partial, formats, reference, tolerance)
        student.save(partial)
        _write_json(partial / METADATA_FILE, _metadata(student, partial, rows, tolerance))
        _publish(partial, out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return ExportReport(rows=[{**row, "path": str(out / row["path"])} for row in rows])


def _check_request(out: Path, formats: Sequence[str]) -> None:
    """Refuse before any work is done."""
    unknown = sorted(set(formats) - set(FORMATS))
    if unknown or not formats:
        raise unknown_name("export format", unknown[0] if unknown else "", FORMATS)
    for name in formats:
        FORMATS[name].require()
    if out.exists() and not (out.is_dir() and _replaceable(out)):
        raise ValueError(
            f"{out} exists and is no earlier export (it has no {METADATA_FILE}): choose a new "
            "folder, so that nothing of yours is overwritten"
        )


def _write_towers(
    student: Student, folder: Path, formats: Sequence[str], reference: Reference, tolerance: float
) -> list[ExportRow]:
    folded = student.reparameterize().cpu().float()
    towers: dict[TowerName, Tower] = {"image": folded.image_tower, "text": folded.text_tower}
    rows: list[ExportRow] = []
    for name in formats:
        exporter = FORMATS[name]
        for tower, module in towers.items():
            path = folder / f"{tower}{exporter.suffix}"
            example = reference.inputs(folder, tower)[:2]
            exporter.write(module, example, path, _properties(student, tower))
            run = exporter.open_tower(path)
            error = reference.check(run, folder, tower, tolerance)
            one = np.ascontiguousarray(example[:1].numpy())
            rows.append(
                {
                    "format": name,
                    "tower": tower,
                    "path": path.name,
                    "bytes": path.stat().st_size,
                    "relative_error": error,
                    "latency_ms": latency_ms(lambda run=run, one=one: run(one))[0],
                }
            )
    return rows


def write_feeding(student: Student, folder: Path) -> None:
    """Write what turns a picture or a text into a tower's input."""
    _write_json(folder / PREPROCESSING_FILE, student.preprocess.config())
    vocabulary = _vocabulary(student.tokenizer)
    extra = {} if vocabulary is None else {"vocabulary": vocabulary.name}
    config = {**student.tokenizer.config(), "vocab_size": student.tokenizer.vocab_size, **extra}
    _write_json(folder / TOKENIZER_FILE, config)
    if vocabulary is not None:
        shutil.copyfile(vocabulary, folder / vocabulary.name)


def _vocabulary(tokenizer: Tokenizer) -> Path | None:
    """Return the byte-pair merges of CLIP's own tokenizer; other kinds keep theirs elsewhere."""
    if not isinstance(tokenizer, OpenClipTokenizer):
        return None
    inner = open_clip.get_tokenizer(tokenizer.model)
    if not isinstance(inner, open_clip.SimpleTokenizer):
        return None
    return Path(open_clip.tokenizer.default_bpe())


def _facts(student: Student) -> dict[str, Any]:
    bias = student.logit_bias
    return {
        "name": student.name,
        "kind": student.kind,
        "embed_dim": student.embed_dim,
        "logit_scale": student.logit_scale.detach().double().exp().item(),
        "logit_bias": None if bias is None else bias.item(),
        "unit_rows": True,
    }


def _interface(student: Student, tower: str) -> dict[str, Any]:
    size = student.preprocess.image_size
    is_image = tower == "image"
    return {
        "input": onnx.INPUT_NAMES[tower],
        "input_shape": ["n", 3, size, size]
        if is_image
        else ["n", student.tokenizer.context_length],
        "input_dtype": "float32" if is_image else "int64",
        "output": onnx.OUTPUT_NAMES[tower],
        "output_shape": ["n", student.embed_dim],
        "output_dtype": "float32",
    }


def _properties(student: Student, tower: str) -> dict[str, str]:
    """Flatten for formats that keep only strings."""
    facts = {**_facts(student), **_interface(student, tower), "tower": tower}
    if tower == "image":
        facts["preprocessing"] = student.preprocess.config()
    return {f"clip_distill.{key}": json.dumps(value) for key, value in facts.items()}


def _metadata(
    student: Student, folder: Path, rows: list[ExportRow], tolerance: float
) -> dict[str, Any]:
    files = {path.name: path for path in sorted(folder.iterdir())}
    return {
        "format": 1,
        **_facts(student),
        "preprocessing": student.preprocess.config(),
        "towers": [{**row, **_interface(student, row["tower"])} for row in rows],
        "tolerance": tolerance,
        "files": {
            name: {
                "bytes": path.stat().st_size,
                "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            }
            for name, path in files.items()
        },
        "versions": {name: version(name) for name in _PACKAGES},
    }


def _replaceable(out: Path) -> bool:
    return (out / METADATA_FILE).is_file() or not any(out.iterdir())


def _publish(partial: Path, out: Path) -> None:
    """Rename the finished folder into place; an earlier export steps aside first."""
    old = out.with_name(f".{out.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if out.exists():
        os.rename(out, old)
    os.rename(partial, out)
    shutil.rmtree(old, ignore_errors=True)


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
