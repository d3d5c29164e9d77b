"""`distill evaluate` and `distill export`."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.table import Table

from distill.cli.outcome import Outcome
from distill.cli.parsing import parse


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Zero-shot accuracy and retrieval of a model on shards of pictures with captions.

    Attributes:
        model: a student's folder, or a teacher: open_clip name/tag, hf-hub:ID, local folder.
        on: sources to evaluate on; `NAME=SHARDS` gives a split its name in the results.
        templates: a set by name (plain, photo, photo7), or prompts with {} for the class name;
            class vectors are averaged over them.
        against: a teacher to compare with: another model, or metrics written by --out.
        classes: a text file of class names, one a line; by default the labels of the source.
        captions_from: the member or JSON field that holds the captions.
        limit: stop after so many samples of each source.
        device: where the model runs: cpu, cuda, cuda:1, mps.
        out: write the metrics here as JSON.
    """

    model: Annotated[str, tyro.conf.Positional]
    on: tuple[str, ...]
    templates: tuple[str, ...] = ("plain",)
    against: str | None = None
    classes: Path | None = None
    captions_from: str | None = None
    limit: int | None = None
    device: str = "cpu"
    out: Path | None = None


def run_evaluate(arguments: Sequence[str], console: Console) -> Outcome:
    """Evaluate, compare, print, write."""
    asked = parse(Evaluate, "evaluate", arguments)
    from distill.evaluation import retention

    metrics = _metrics(asked, asked.model)
    reference = _reference(asked)
    kept = retention(metrics, reference) if reference else None
    values = {"model": asked.model, "metrics": metrics, "retention": kept}
    table = Table("metric", asked.model, *(["against", "retention"] if kept else []))
    for name, value in metrics.items():
        share = kept.get(name) if kept else None
        beside = [] if share is None else [f"{reference[name]:.4f}", f"{share:.3f}"]
        table.add_row(name, f"{value:.4f}", *beside)
    console.print(table)
    if asked.out is not None:
        asked.out.parent.mkdir(parents=True, exist_ok=True)
        asked.out.write_text(json.dumps(values, indent=2))
    left_out = any(value for name, value in metrics.items() if name.endswith("skipped"))
    return Outcome(values=values, exit_code=3 if left_out else 0)


def _metrics(asked: Evaluate, model: str) -> dict[str, float]:
    """Load a model and evaluate it on every split."""
    from distill.evaluation.splits import evaluate_splits
    from distill.model_loading import load_model

    return evaluate_splits(
        load_model(model, device=asked.device),
        _named_splits(asked.on),
        templates=asked.templates,
        classes=None if asked.classes is None else _class_names(asked.classes),
        captions_from=asked.captions_from,
        limit=asked.limit,
    )


def _class_names(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"--classes {path} is not UTF-8 text: {error}") from error
    names = [line.strip() for line in lines if line.strip()]
    if not names:
        raise ValueError(f"--classes {path} names no class; write one a line")
    return names


def _named_splits(sources: Sequence[str]) -> dict[str, str]:
    """Read `NAME=SHARDS` or bare shards; several need names of their own."""
    splits: dict[str, str] = {}
    for text in sources:
        name, equals, source = text.partition("=")
        name, source = (name, source) if equals else ("", text)
        if name in splits:
            raise ValueError(
                f"--on names the split {name!r} twice; with several sources write NAME=SHARDS"
            )
        splits[name] = source
    return splits


def _reference(asked: Evaluate) -> dict[str, float]:
    if asked.against is None:
        return {}
    if not asked.against.endswith(".json"):
        return _metrics(asked, asked.against)
    try:
        return json.loads(Path(asked.against).read_text())["metrics"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"--against {asked.against} holds no metrics ({error!r}); write it with `distill "
            f"evaluate TEACHER --on ... --out {asked.against}`"
        ) from error


@dataclass(frozen=True, kw_only=True)
class Export:
    """Write a student as files that run elsewhere, and check them against it.

    Attributes:
        student: the student's folder.
        out: the folder to write.
        formats: what to write.
        samples: shards with real pictures and captions to check on; noise when left out.
    """

    student: Annotated[str, tyro.conf.Positional]
    out: Annotated[str, tyro.conf.Positional]
    formats: tuple[str, ...] = ("onnx",)
    samples: str | None = None


def run_export(arguments: Sequence[str], console: Console) -> Outcome:
    """Export and print one line a file."""
    asked = parse(Export, "export", arguments)
    from distill.samples import real_samples
    from students import export, load_student

    samples = real_samples(asked.samples, 16) if asked.samples else None
    report = export(load_student(asked.student), asked.out, formats=asked.formats, samples=samples)
    table = Table("file", "tower", "kB", "relative error", "ms")
    for row in report.rows:
        table.add_row(
            row["path"],
            row["tower"],
            f"{row['bytes'] / 1000:,.0f}",
            f"{row['relative_error']:.1e}",
            f"{row['latency_ms']:.2f}",
        )
    console.print(table)
    return Outcome(values={"exports": report.rows})
