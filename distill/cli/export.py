"""`distill export`: files that phones and servers run, checked against the student."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from distill.cli.outcome import Failed, Outcome
from distill.cli.parsing import parse, read_class_names

if TYPE_CHECKING:
    from students import ExportReport, Student
    from students.exporters.calibration import Calibration
    from students.exporters.judging import Metric
    from students.exporters.parity import Samples


# Pictures that every file is run on.
_CHECKED = 16


@dataclass(frozen=True, kw_only=True)
class Export:
    """Write a student as files that run elsewhere, and check each against it in its own runtime.

    Attributes:
        student: the student's folder.
        out: the folder to write.
        formats: onnx, ort, executorch, litert, coreml, with spaces or commas between;
            FORMAT:QUANTIZE writes one precision of a format.
        quantize: none, fp16, int8, dynamic-int8, 4bit-weights: the precisions of each format that
            names none; docs/export.md says which format has which. Integers are
            calibrated on views that the run was trained on.
        samples: shards with real pictures and captions to check on, and to calibrate on instead;
            by default those of the run's store, and noise where it is not there.
        calibration_samples: how many pictures and captions integers are calibrated on.
        classes: a text file of class names, one a line: adds a zero-shot classifier for them.
        template: the prompt of a class, with {} for its name.
        batch_size: rows a call; by default any number in ONNX, and one where shapes are fixed.
        preprocessing_inside: picture files take bytes and normalise them themselves.
        tolerance: the largest relative error let through; by default each precision's own.
        metric_on: shards on which the files' metric is measured beside the student's.
        metric: top1, image_to_text_r1 or text_to_image_r1; by default top1 where there are labels.
        metric_limit: stop after so many samples.
        max_metric_loss: how far a file's metric may be below the student's; 0.01 is one point.
    """

    student: Annotated[str, tyro.conf.Positional]
    out: Annotated[str, tyro.conf.Positional]
    formats: tuple[str, ...] = ("onnx",)
    quantize: tuple[str, ...] = ("none",)
    samples: str | None = None
    calibration_samples: int = 64
    classes: Path | None = None
    template: str = "a photo of a {}"
    batch_size: int | None = None
    preprocessing_inside: bool = False
    tolerance: float | None = None
    metric_on: str | None = None
    metric: str | None = None
    metric_limit: int | None = None
    max_metric_loss: float = 0.01


def run(arguments: Sequence[str], console: Console) -> Outcome:
    """Export and print one line a file."""
    asked = parse(Export, "export", arguments)
    from students import export, load_student
    from students.exporters import ParityError

    student = load_student(asked.student)
    samples, calibration = _samples(asked, student, console)
    with console.status("Exporting") as status:
        try:
            report = export(
                student,
                asked.out,
                formats=asked.formats,
                quantize=asked.quantize,
                samples=samples,
                calibration=calibration,
                classes=_prompts(asked),
                batch_size=asked.batch_size,
                preprocessing_inside=asked.preprocessing_inside,
                tolerance=asked.tolerance,
                metric=_metric(asked),
                max_metric_loss=asked.max_metric_loss,
                on_file=lambda path: status.update(f"Writing and checking {path}"),
            )
        except ParityError as error:
            raise Failed(f"{error}. Nothing was written to {asked.out}") from error
    _print(report, console)
    return Outcome(values={"exports": report.rows, "verdicts": report.verdicts})


def _samples(
    asked: Export, student: "Student", console: Console
) -> "tuple[Samples | None, Calibration | None]":
    """What files are checked on, and what integers are calibrated on."""
    from distill import calibration_samples as given
    from distill.samples import real_samples
    from students.exporters.formats import variants

    quantised = any(each.quantize != "none" for each in variants(asked.formats, asked.quantize))
    count = asked.calibration_samples
    if asked.samples:
        samples = real_samples(asked.samples, _CHECKED)
        return samples, given.shard_calibration(
            student, asked.samples, count
        ) if quantised else None
    try:
        samples = given.stored_pictures(given.store_of(asked.student), _CHECKED)
        stored = given.stored_calibration(student, asked.student, count) if quantised else None
        return samples, stored
    except ValueError as missing:
        console.print(
            f"[yellow]note:[/] {escape(str(missing))}. Files are checked on made-up pictures and "
            "words, and integers calibrated on them: give --samples SHARDS",
            highlight=False,
        )
        return None, None


def _print(report: "ExportReport", console: Console) -> None:
    """One line a file, then one a format and precision, then what was not checked."""
    from students.exporters import FORMATS

    table = Table("file", "tower", "kB", "relative error", "ms")
    for row in report.rows:
        error, latency = row["relative_error"], row["latency_ms"]
        table.add_row(
            row["path"],
            row["tower"],
            f"{row['bytes'] / 1000:,.0f}",
            "not run here" if error is None else f"{error:.1e}",
            "" if latency is None else f"{latency:.2f}",
        )
    console.print(table)
    table = Table("files", "best alike", "order alike", "metric", "of the student")
    for found in report.verdicts:
        table.add_row(
            f"{found['format']} {found['quantize']}",
            _share(found["top1_alike"], found["top1_decided"]),
            _share(found["order_alike"], found["order_decided"]),
            *("" if m is None else f"{m:.4f}" for m in (found["metric"], found["metric_of_model"])),
        )
    if report.verdicts:
        name = report.verdicts[0]["metric_name"]
        table.columns[3].header = name or "metric"
        console.print(table)
    for name in {row["format"]: None for row in report.rows if row["relative_error"] is None}:
        console.print(
            f"{name}: the files' structure was checked, their numbers were not: only "
            f"{FORMATS[name].runs_on} runs them, where the same command checks them too.",
            soft_wrap=True,
        )


def _share(share: float | None, decided: int) -> str:
    return "none is clear" if share is None else f"{share:.1%} of {decided}"


def _metric(asked: Export) -> "Metric | None":
    if asked.metric_on is None:
        if asked.metric is not None:
            raise ValueError("--metric is measured on pictures of yours: add --metric-on SHARDS")
        return None
    from distill.file_metrics import metric_on

    return metric_on(asked.metric_on, asked.metric, limit=asked.metric_limit)


def _prompts(asked: Export) -> Mapping[str, Sequence[str]] | None:
    if asked.classes is None:
        return None
    if "{}" not in asked.template:
        raise ValueError(f"--template needs {{}} where the class name goes, got {asked.template!r}")
    return {name: [asked.template.replace("{}", name)] for name in read_class_names(asked.classes)}
