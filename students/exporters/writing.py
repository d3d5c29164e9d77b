"""Every file of an export: written, run in its own runtime, and judged against the model."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from students.exporters.calibration import Calibration
from students.exporters.departures import first_departure
from students.exporters.formats import (
    TOLERANCES,
    WEIGHT_BITS,
    WEIGHT_BLOCKS,
    Variant,
    runner,
)
from students.exporters.graph import Bytes, Graph, GraphName, ZeroShot, interface
from students.exporters.judging import Judge, Verdict
from students.exporters.metadata import facts, size_of
from students.exporters.parity import ParityError, Reference, Runner
from students.exporters.sensitivity import LAYERS, layers_to_keep
from students.profiling import latency_ms
from students.student import Student

# Of the calibration's; every layer is run over them.
_SEARCHED_ROWS = 32


@dataclass(frozen=True, kw_only=True)
class Job:
    """One export under way."""

    student: Student
    folder: Path
    reference: Reference
    judge: Judge
    calibration: Calibration | None
    batch_size: int | None
    tolerance: float | None
    on_file: Callable[[str], object]


def write_all(job: Job, asked: Sequence[Variant]) -> tuple[list[dict[str, Any]], list[Verdict]]:
    """Write and check every file; returns each one's row with its interface, and the verdicts."""
    folded = job.student.reparameterize().cpu().float().to(memory_format=torch.contiguous_format)
    towers: list[dict[str, Any]] = []
    verdicts: list[Verdict] = []
    for variant in asked:
        (job.folder / variant.format).mkdir(exist_ok=True)
        done: list[_Done] = []
        for name in job.reference.rows:
            job.on_file(variant.file(name))
            done.append(_write(job, _graph(job, folded, name, variant), variant))
        towers += [one.row for one in done]
        verdicts += _verdict(job, variant, done)
    return towers, verdicts


def _graph(job: Job, folded: Student, name: GraphName, variant: Variant) -> Graph:
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
        inputs=_inputs(job, name, inside=inside).to(getattr(torch, described["input_dtype"])),
        batch_size=batch_size,
        interface=described,
        facts={**facts(student), **extra},
    )


def _inputs(job: Job, name: GraphName, *, inside: bool) -> Tensor:
    """What a graph is traced, calibrated and searched for sensitive layers with."""
    given = job.calibration
    if given is None:
        return job.reference.inputs(job.folder, name)
    if name == "text":
        return given.tokens
    return given.pixels if inside else job.student.preprocess.normalize(given.pixels)


def _tolerance(job: Job, variant: Variant) -> float:
    return TOLERANCES[variant.quantize] if job.tolerance is None else job.tolerance


def _mixed(job: Job, graph: Graph, variant: Variant) -> Graph:
    """Choose the layers that stay float."""
    bits = WEIGHT_BITS.get(variant.quantize)
    if bits is None:
        return graph
    kept = layers_to_keep(
        graph.module,
        graph.inputs[:_SEARCHED_ROWS],
        bits=bits,
        activations=variant.quantize not in variant.backend.float_activations,
        tolerance=_tolerance(job, variant),
        block=WEIGHT_BLOCKS.get(variant.quantize),
        kinds=variant.backend.four_bits if bits == 4 else LAYERS,
    )
    return replace(graph, keep_float=kept)


class _Done(NamedTuple):
    """A file that was written, and what it gave, where it runs here."""

    graph: Graph
    row: dict[str, Any]
    run: Runner | None = None
    shipped: Tensor | None = None


def _write(job: Job, graph: Graph, variant: Variant) -> _Done:
    """Write a file, run it in its own runtime against the model, and time it."""
    graph = _mixed(job, graph, variant)
    path = job.folder / variant.file(graph.name)
    variant.backend.write[variant.quantize](graph, path)
    if variant.backend.inspect is not None:
        variant.backend.inspect(graph, path, variant.quantize)
    row = {
        "format": variant.format,
        "quantize": variant.quantize,
        "tower": graph.name,
        "path": variant.file(graph.name),
        "bytes": size_of(path),
        "relative_error": None,
        "latency_ms": None,
        "kept_float": list(graph.keep_float),
        "about": variant.backend.about.get(variant.quantize, ""),
        **graph.interface,
    }
    if variant.backend.open is None:
        return _Done(graph, row)
    run = runner(variant, path, graph.interface)
    shipped, tolerance = (
        job.reference.shipped(run, job.folder, graph.name),
        _tolerance(job, variant),
    )
    try:
        row["relative_error"] = job.reference.judge(shipped, graph.name, tolerance)
    except ParityError as found:
        where = _departure(job, variant, graph, tolerance)
        raise ParityError(f"{found}. {where}") from None
    one = np.ascontiguousarray(graph.example[: graph.batch_size or 1].numpy())
    row["latency_ms"] = latency_ms(lambda: run(one))[0]
    return _Done(graph, row, run, shipped)


def _verdict(job: Job, variant: Variant, done: Sequence[_Done]) -> list[Verdict]:
    """Judge a variant's files together."""
    shipped = {one.graph.name: one.shipped for one in done if one.shipped is not None}
    runs = {one.graph.name: one.run for one in done if one.run is not None}
    if not runs:
        return []
    try:
        return [job.judge.verdict(variant, shipped, runs)]
    except ParityError as found:
        # Each file is within its tolerance: half of its own error is where it began.
        wheres = [
            _departure(job, variant, one.graph, one.row["relative_error"] / 2) for one in done
        ]
        raise ParityError(". ".join([str(found), *wheres])) from None


def _departure(job: Job, variant: Variant, graph: Graph, tolerance: float) -> str:
    """Say which layer of a file departs first."""
    job.on_file(f"{variant.file(graph.name)}: which layer departs first")
    backend, path = variant.backend, job.folder / variant.file(graph.name)

    def rewrite(prefix: Graph) -> Runner:
        part = path.with_name(f"prefix{backend.suffix}")
        backend.write[variant.quantize](prefix, part)
        return runner(variant, part, graph.interface)

    seen = None if backend.intermediates is None else backend.intermediates(graph, path)
    found = first_departure(graph, tolerance, seen=seen, rewrite=rewrite)
    return f"In {variant.file(graph.name)}: {found}"
