"""`export`: a folder with all that an app needs, checked against the model, or no folder at all.

Everything is written into a hidden folder beside the target and renamed into place at the end, so
that an interrupted or failing export leaves nothing that looks finished.
"""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

from students.exporters.calibration import Calibration
from students.exporters.feeding import write_feeding, write_json
from students.exporters.formats import variants
from students.exporters.graph import GraphName
from students.exporters.judging import Judge, Metric, Verdict
from students.exporters.metadata import METADATA_FILE, metadata
from students.exporters.parity import Reference, Samples, made_up_samples
from students.exporters.publishing import publish, recover
from students.exporters.writing import Job, write_all
from students.student import Student


class ExportRow(TypedDict):
    """One shipped file.

    `latency_ms` is the median of a call of one row (of `batch_size` rows, where that is fixed) on
    one thread. It and `relative_error` are None where the format has no runtime on this machine.
    `kept_float` names the modules whose quantisation would have hurt too much; `about` says what
    the precision means in this format, where its name does not.
    """

    format: str
    quantize: str
    tower: GraphName
    path: str
    bytes: int
    relative_error: float | None
    latency_ms: float | None
    kept_float: list[str]
    about: str


@dataclass(frozen=True, kw_only=True)
class ExportReport:
    """What was written, one row a file; and what each format's files decide."""

    rows: list[ExportRow]
    verdicts: list[Verdict]


def export(
    student: Student,
    out: str | Path,
    *,
    formats: Sequence[str] = ("onnx",),
    quantize: Sequence[str] = ("none",),
    samples: Samples | None = None,
    calibration: Calibration | None = None,
    classes: Mapping[str, Sequence[str]] | None = None,
    batch_size: int | None = None,
    preprocessing_inside: bool = False,
    tolerance: float | None = None,
    metric: Metric | None = None,
    max_metric_loss: float = 0.01,
    on_file: Callable[[str], object] = lambda path: None,
) -> ExportReport:
    """Write a student's towers apart, in inference form, with all that is needed to feed them.

    Args:
        student: what to ship; it is left as it was.
        out: the folder. An earlier export there is replaced once this one is whole.
        formats: what to write: onnx, ort, executorch, litert, coreml; FORMAT:QUANTIZE for one
            precision alone.
        quantize: the precisions of each format that names none.
        samples: (Pillow image, text) pairs to check the files on; at best real ones.
        calibration: inputs that integers' ranges are measured on; by default the samples.
        classes: a fixed label set, name to prompts: adds `zero_shot`, from pixels to its logits.
        batch_size: rows a call. By default any number in ONNX, and one where shapes are fixed.
        preprocessing_inside: picture files take bytes and normalise them themselves.
        tolerance: the largest relative error let through (see `parity`); by default each
            precision's own (`formats.TOLERANCES`). Layers whose rounding alone would break it stay
            float (see `sensitivity`).
        metric: measured on each format's files as on the student: from a `ClipModel` to a number,
            higher is better.
        max_metric_loss: how far a file's metric may be below the student's.
        on_file: told each file's name, relative to `out`, before it is written.

    Raises:
        ValueError: unknown format, missing library, something that a format cannot do, or a folder
            that holds something else.
        ParityError: a file does not do what the model does, in its rows, its decisions or the
            metric; says which layer departs first. Nothing is left behind.
    """
    out = Path(out)
    recover(out)
    asked = variants(formats, quantize, inside=preprocessing_inside, batch_size=batch_size)
    _check_target(out, batch_size)
    checked_on = "made-up pictures and words" if samples is None else "given pictures and texts"
    samples = made_up_samples(student.tokenizer) if samples is None else samples
    reference = Reference(student, samples, classes=classes, inside=preprocessing_inside)
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    job = Job(
        student=student,
        folder=partial,
        reference=reference,
        judge=Judge(student, reference, metric, max_metric_loss),
        calibration=calibration,
        batch_size=batch_size,
        tolerance=tolerance,
        on_file=on_file,
    )
    try:
        write_feeding(student, partial)
        towers, verdicts = write_all(job, asked)
        student.save(partial)
        described = metadata(student, partial, towers, reference)
        described |= {
            "verdicts": verdicts,
            "checked_on": {"samples": len(samples), "from": checked_on},
            "calibrated_on": None if calibration is None else dict(calibration.origin),
        }
        write_json(partial / METADATA_FILE, described)
        publish(partial, out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    keys = ExportRow.__annotations__
    rows: list[Any] = [
        {key: tower[key] for key in keys} | {"path": str(out / tower["path"])} for tower in towers
    ]
    return ExportReport(rows=rows, verdicts=verdicts)


def _check_target(out: Path, batch_size: int | None) -> None:
    """Refuse before any work is done."""
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size must be at least 1 row a call, got {batch_size}")
    if out.exists() and not (out.is_dir() and _replaceable(out)):
        raise ValueError(
            f"{out} exists and is no earlier export (no {METADATA_FILE} of one is in it): choose "
            "a new folder, so that nothing of yours is overwritten"
        )


def _replaceable(out: Path) -> bool:
    """Whether it is empty or an export: others call a file `metadata.json` too."""
    if not any(out.iterdir()):
        return True
    try:
        towers = json.loads((out / METADATA_FILE).read_text(encoding="utf-8"))["towers"]
        return len(towers) > 0 and all(isinstance(tower["path"], str) for tower in towers)
    except (OSError, ValueError, KeyError, TypeError):
        return False
