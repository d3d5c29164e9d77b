"""`distill export`: files that phones and servers run, checked against the student."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.table import Table

from distill.cli.outcome import Outcome
from distill.cli.parsing import parse, read_class_names


@dataclass(frozen=True, kw_only=True)
class Export:
    """Write a student as files that run elsewhere, and check each against it in its own runtime.

    Attributes:
        student: the student's folder.
        out: the folder to write.
        formats: onnx, executorch, litert; FORMAT:QUANTIZE writes one precision of a format.
        quantize: none, and for onnx int8 and dynamic-int8: the precisions of each format that
            names none. int8 calibrates on --samples.
        samples: shards with real pictures and captions to check on; noise when left out.
        classes: a text file of class names, one a line: adds a zero-shot classifier for them.
        template: the prompt of a class, with {} for its name.
        batch_size: rows a call; by default any number in ONNX, and one where shapes are fixed.
        preprocessing_inside: picture files take bytes and normalise them themselves.
        tolerance: the largest relative error let through; by default each precision's own.
    """

    student: Annotated[str, tyro.conf.Positional]
    out: Annotated[str, tyro.conf.Positional]
    formats: tuple[str, ...] = ("onnx",)
    quantize: tuple[str, ...] = ("none",)
    samples: str | None = None
    classes: Path | None = None
    template: str = "a photo of a {}"
    batch_size: int | None = None
    preprocessing_inside: bool = False
    tolerance: float | None = None


def run(arguments: Sequence[str], console: Console) -> Outcome:
    """Export and print one line a file."""
    asked = parse(Export, "export", arguments)
    from distill.samples import real_samples
    from students import export, load_student

    with console.status("Exporting") as status:
        report = export(
            load_student(asked.student),
            asked.out,
            formats=asked.formats,
            quantize=asked.quantize,
            samples=real_samples(asked.samples, 16) if asked.samples else None,
            classes=_prompts(asked),
            batch_size=asked.batch_size,
            preprocessing_inside=asked.preprocessing_inside,
            tolerance=asked.tolerance,
            on_file=lambda path: status.update(f"Writing and checking {path}"),
        )
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
    return Outcome(values={"exports": report.rows})


def _prompts(asked: Export) -> Mapping[str, Sequence[str]] | None:
    if asked.classes is None:
        return None
    if "{}" not in asked.template:
        raise ValueError(f"--template needs {{}} where the class name goes, got {asked.template!r}")
    return {name: [asked.template.replace("{}", name)] for name in read_class_names(asked.classes)}
