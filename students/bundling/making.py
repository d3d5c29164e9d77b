"""`bundle`: what `export` wrote becomes one folder a format, and an app's team needs nothing else.

    bundles/onnx/          towers, tokenizer, labels, metadata.json, sample.py, a web page
    bundles/onnx.int8/     the same in another precision
    bundles/litert/        ...

Written into a hidden folder and renamed into place, as an export is.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

from students.bundling.browser import check_runtime
from students.bundling.folder import METADATA_FILE, BundleOptions, complete_bundle
from students.bundling.formats import BUNDLE_FORMATS
from students.exporters.publishing import publish, recover
from students.loading import load_student
from students.student import Student
from teachers.contract import Tokenizer
from teachers.suggestions import unknown_name

MARK_FILE = "bundles.json"


class BundleRow(TypedDict):
    """One bundle."""

    bundle: str
    path: str
    files: int
    bytes: int


@dataclass(frozen=True, kw_only=True)
class BundleReport:
    """What was written, one row a bundle."""

    rows: list[BundleRow]


def bundle(
    exported: str | Path,
    out: str | Path,
    *,
    formats: Sequence[str] | None = None,
    options: BundleOptions | None = None,
    student: Student | None = None,
    tokenizer: Tokenizer | None = None,
) -> BundleReport:
    """Make a self-contained folder of each format in an export.

    Args:
        exported: what `export` wrote.
        out: the folder of bundles; earlier bundles there are replaced once these are whole.
        formats: which of the export's; all when None. "onnx.int8" is one in a precision.
        options: labels, what the card says, where the web page's runtime comes from.
        student: the model itself, where `load_student(exported)` cannot rebuild it.
        tokenizer: for a tokenizer of your own make, that tokenizer.

    Raises:
        ValueError: no export there, a format that it lacks, or a folder that holds something else.
    """
    exported, out, options = Path(exported), Path(out), options or BundleOptions()
    recover(out)
    metadata = _read_export(exported)
    groups = _groups(metadata)
    for name in formats or ():
        if name not in groups:
            raise unknown_name(f"format in {exported}", name, groups)
    if options.ort_web is not None:
        check_runtime(options.ort_web)
    _check_target(out)
    student = student or load_student(exported, tokenizer=tokenizer)
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        for name in formats or groups:
            _write_one(partial / name, exported, student, groups[name], metadata, options)
        (partial / MARK_FILE).write_text(json.dumps({"format": 1, "name": student.name}) + "\n")
        publish(partial, out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return BundleReport(rows=[_row(out / name) for name in formats or groups])


def _read_export(exported: Path) -> dict[str, Any]:
    path = exported / METADATA_FILE
    if not path.is_file():
        raise ValueError(
            f"no export in {exported}: {METADATA_FILE} is missing there; write one with `distill "
            "export STUDENT OUT`"
        )
    metadata = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(metadata.get("towers"), list):
        raise ValueError(f"{path} lists no towers: name the folder that `distill export` wrote")
    return metadata


def _groups(metadata: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Sort an export's files by format and precision; only pairs of both towers make a bundle."""
    found: dict[str, list[dict[str, Any]]] = {}
    for entry in metadata["towers"]:
        precision = entry.get("quantize", "none")
        name = entry["format"] if precision == "none" else f"{entry['format']}.{precision}"
        found.setdefault(name, []).append(entry)
    return {
        name: entries
        for name, entries in found.items()
        if {"image", "text"} <= {entry["tower"] for entry in entries}
    }


def _write_one(
    folder: Path,
    exported: Path,
    student: Student,
    entries: Sequence[Mapping[str, Any]],
    metadata: Mapping[str, Any],
    options: BundleOptions,
) -> None:
    folder.mkdir()
    towers = {}
    for entry in entries:
        if entry["input_shape"][0] not in ("n", 1):
            raise ValueError(
                f"{exported / entry['path']} takes {entry['input_shape'][0]} rows a call, and "
                "an app asks for one: export again without --batch-size"
            )
        source, name = exported / entry["path"], Path(entry["path"]).name
        copy = shutil.copytree if source.is_dir() else shutil.copyfile
        copy(source, folder / name)
        kept = {key: value for key, value in entry.items() if key not in ("path", "tower")}
        towers[entry["tower"]] = {"file": name, **kept}
    kind, precision = entries[0]["format"], entries[0].get("quantize", "none")
    judged = [
        verdict
        for verdict in metadata.get("verdicts", ())
        if (verdict["format"], verdict["quantize"]) == (kind, precision)
    ]
    known = {"towers": towers, "versions": metadata["versions"], "verdicts": judged}
    for name in BUNDLE_FORMATS[kind].beside:
        shutil.copyfile(exported / kind / name, folder / name)
    complete_bundle(folder, student, kind, known, options)


def _check_target(out: Path) -> None:
    ours = out.is_dir() and ((out / MARK_FILE).is_file() or not any(out.iterdir()))
    if out.exists() and not ours:
        raise ValueError(
            f"{out} exists and holds no earlier bundles (it has no {MARK_FILE}): choose a new "
            "folder, so that nothing of yours is overwritten"
        )


def _row(folder: Path) -> BundleRow:
    files = [path for path in folder.rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in files)
    return {"bundle": folder.name, "path": str(folder), "files": len(files), "bytes": size}
