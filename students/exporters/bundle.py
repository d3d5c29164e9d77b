"""`export`: a folder with all that an app needs, checked against the model, or no folder at all.

Everything is written into a hidden folder beside the target and renamed into place at the end, so
that an interrupted or failing export leaves nothing that looks finished.
"""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import torch
from torch import nn

from students.exporters.feeding import write_feeding, write_json
from students.exporters.formats import TOLERANCES, WEIGHT_BITS, Variant, runner, variants
from students.exporters.graph import Bytes, Graph, GraphName, ZeroShot, interface
from students.exporters.metadata import METADATA_FILE, facts, metadata, size_of
from students.exporters.parity import Reference, Samples, made_up_samples
from students.exporters.publishing import publish
from students.exporters.sensitivity import layers_to_keep
from students.profiling import latency_ms
from students.student import Student


class ExportRow(TypedDict):
    """One shipped file.

    `latency_ms` is the median of a call of one row (of `batch_size` rows, where that is fixed) on
    one thread. It and `relative_error` are None where the format has no runtime on this machine.
    `kept_float` names the modules whose quantisation would have hurt too much.
    """

    format: str
    quantize: str
    tower: GraphName
    path: str
    bytes: int
    relative_error: float | None
    latency_ms: float | None
    kept_float: list[str]


@dataclass(frozen=True, kw_only=True)
class ExportReport:
    """What was written, one row a file."""

    rows: list[ExportRow]


@dataclass(frozen=True, kw_only=True)
class _Job:
    """One export under way."""

    student: Student
    folder: Path
    reference: Reference
    batch_size: int | None
    tolerance: float | None
    on_file: Callable[[str], object]


def export(
    student: Student,
    out: str | Path,
    *,
    formats: Sequence[str] = ("onnx",),
    quantize: Sequence[str] = ("none",),
    samples: Samples | None = None,
    classes: Mapping[str, Sequence[str]] | None = None,
    batch_size: int | None = None,
    preprocessing_inside: bool = False,
    tolerance: float | None = None,
    on_file: Callable[[str], object] = lambda path: None,
) -> ExportReport:
    """Write a student's towers apart, in inference form, with all that is needed to feed them.

    Args:
        student: what to ship; it is left as it was.
        out: the folder. An earlier export there is replaced once this one is whole.
        formats: what to write: onnx, executorch, litert; FORMAT:QUANTIZE for one precision alone.
        quantize: the precisions of each format that names none.
        samples: (Pillow image, text) pairs to check the files on; at best real ones.
        classes: a fixed label set, name to prompts: adds `zero_shot`, from pixels to its logits.
        batch_size: rows a call. By default any number in ONNX, and one where shapes are fixed.
        preprocessing_inside: picture files take bytes and normalise them themselves.
        tolerance: the largest relative error let through (see `parity`); by default each
            precision's own (`formats.TOLERANCES`). Layers whose rounding alone would break it stay
            float (see `sensitivity`).
        on_file: told each file's name, relative to `out`, before it is written.

    Raises:
        ValueError: unknown format, missing library, or a folder that holds something else.
        RuntimeError: a file disagrees with the model; nothing is left behind.
    """
    out = Path(out)
    asked = variants(formats, quantize)
    _check_target(out, batch_size)
    samples = made_up_samples(student.tokenizer) if samples is None else samples
    reference = Reference(student, samples, classes=classes, inside=preprocessing_inside)
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    job = _Job(
        student=student,
        folder=partial,
        reference=reference,
        batch_size=batch_size,
        tolerance=tolerance,
        on_file=on_file,
    )
    try:
        write_feeding(student, partial)
        towers = _write_all(job, asked)
        student.save(partial)
        write_json(partial / METADATA_FILE, metadata(student, partial, towers, reference))
        publish(partial, out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    keys = ExportRow.__annotations__
    rows: list[Any] = [
        {key: tower[key] for key in keys} | {"path": str(out / tower["path"])} for tower in towers
    ]
    return ExportReport(rows=rows)


def _check_target(out: Path, batch_size: int | None) -> None:
    """Refuse before any work is done."""
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size must be at least 1 row a call, got {batch_size}")
    if out.exists() and not (out.is_dir() and _replaceable(out)):
        raise ValueError(
            f"{out} exists and is no earlier export (it has no {METADATA_FILE}): choose a new "
            "folder, so that nothing of yours is overwritten"
        )


def _write_all(job: _Job, asked: Sequence[Variant]) -> list[dict[str, Any]]:
    """Write and check every file; returns each one's row with its interface."""
    folded = job.student.reparameterize().cpu().float().to(memory_format=torch.contiguous_format)
    towers: list[dict[str, Any]] = []
    for variant in asked:
        (job.folder / variant.format).mkdir(exist_ok=True)
        for name in job.reference.rows:
            job.on_file(variant.file(name))
            graph = _mixed(job, _graph(job, folded, name, variant), variant)
            path = job.folder / variant.file(name)
            variant.backend.write[variant.quantize](graph, path)
            towers.append({**_row(job, graph, variant, path), **graph.interface})
    return towers


def _graph(job: _Job, folded: Student, name: GraphName, variant: Variant) -> Graph:
    student, reference, backend = job.student, job.reference, variant.backend
    batch_size = job.batch_size if backend.any_batch else job.batch_size or 1
    inside = reference.inside and name != "text"
    module: Any = folded.text_tower if name == "text" else folded.image_tower
    if name == "zero_shot":
        bias = 0.0 if student.logit_bias is None else student.logit_bias.item()
        scale = student.logit_scale.detach().exp().item()
        module = ZeroShot(module, reference.class_rows, scale, bias)
    if inside:
        module = Bytes(module, student.preprocess.mean, student.preprocess.std)
    described = interface(
        student,
        name,
        batch_size=batch_size,
        token_dtype=backend.token_dtype,
        inside=inside,
        num_classes=len(reference.classes),
    )
    extra = {"preprocessing": student.preprocess.config()} if name != "text" else {}
    return Graph(
        name=name,
        # A tower lists its own parameters only, and torch.export wants to see every one; a module
        # around it asks the parts themselves. What the graph does not use is dropped.
        module=nn.Sequential(module).eval(),
        inputs=reference.inputs(job.folder, name).to(getattr(torch, described["input_dtype"])),
        batch_size=batch_size,
        interface=described,
        facts={**facts(student), **extra},
    )


def _tolerance(job: _Job, variant: Variant) -> float:
    return TOLERANCES[variant.quantize] if job.tolerance is None else job.tolerance


def _mixed(job: _Job, graph: Graph, variant: Variant) -> Graph:
    """Choose the layers that stay float."""
    bits = WEIGHT_BITS.get(variant.quantize)
    if bits is None:
        return graph
    kept = layers_to_keep(
        graph.module,
        graph.inputs,
        bits=bits,
        activations=variant.quantize in ("int8", "dynamic-int8"),
        tolerance=_tolerance(job, variant),
    )
    return replace(graph, keep_float=kept)


def _row(job: _Job, graph: Graph, variant: Variant, path: Path) -> dict[str, Any]:
    """Run a file in its own runtime against the model, and time it."""
    error = latency = None
    if variant.backend.open is not None:
        run = runner(variant, path, graph.interface)
        error = job.reference.check(run, job.folder, graph.name, _tolerance(job, variant))
        one = np.ascontiguousarray(graph.example[: graph.batch_size or 1].numpy())
        latency = latency_ms(lambda: run(one))[0]
    return {
        "format": variant.format,
        "quantize": variant.quantize,
        "tower": graph.name,
        "path": variant.file(graph.name),
        "bytes": size_of(path),
        "relative_error": error,
        "latency_ms": latency,
        "kept_float": list(graph.keep_float),
    }


def _replaceable(out: Path) -> bool:
    return (out / METADATA_FILE).is_file() or not any(out.iterdir())
