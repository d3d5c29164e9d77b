"""`distill bundle` and `distill push`: an export, made ready for an app's team, and the hub."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.table import Table

from distill.cli.outcome import Outcome
from distill.cli.parsing import parse, read_class_names


@dataclass(frozen=True, kw_only=True)
class BundleArguments:
    """Make a self-contained folder of each format in an export, with a sample that runs.

    Attributes:
        exported: what `distill export` wrote.
        out: the folder to write, one folder a format in it.
        formats: which of the export's; by default all of them. onnx.int8: one in a precision.
        labels: a text file of class names, one a line: their text embeddings come along.
        templates: a set by name (plain, photo, photo7, imagenet), or prompts with {} for the
            class name.
        run: the training run's folder: teachers, data, recipe and scores for the model card.
        licence: the student's own, as Hugging Face writes it (apache-2.0, mit, other).
        ort_web: the npm package onnxruntime-web, for a web page that loads nothing from elsewhere.
    """

    exported: Annotated[Path, tyro.conf.Positional]
    out: Annotated[Path, tyro.conf.Positional]
    formats: tuple[str, ...] = ()
    labels: Path | None = None
    templates: tuple[str, ...] = ("photo",)
    run: Path | None = None
    licence: str = ""
    ort_web: Path | None = None


def run_bundle(arguments: Sequence[str], console: Console) -> Outcome:
    """Bundle and print one line a folder."""
    asked = parse(BundleArguments, "bundle", arguments)
    from distill.lineage import card_facts
    from students.bundling.folder import BundleOptions
    from students.bundling.making import bundle

    options = BundleOptions(
        labels=_labels(asked),
        card=card_facts(asked.run, licence=asked.licence),
        ort_web=asked.ort_web,
    )
    with console.status(f"bundling {asked.exported}"):
        report = bundle(asked.exported, asked.out, formats=asked.formats or None, options=options)
    table = Table("bundle", "folder", "files", "MB")
    for row in report.rows:
        size = f"{row['bytes'] / 1e6:,.1f}"
        table.add_row(row["bundle"], row["path"], str(row["files"]), size)
    console.print(table)
    first = report.rows[0]["path"]
    console.print(f"Try it: cd {first} && python sample.py PICTURE --texts ...", soft_wrap=True)
    return Outcome(values={"bundles": report.rows})


def _labels(asked: BundleArguments):
    if asked.labels is None:
        return None
    from distill.evaluation.evaluator import prompts_of
    from students.bundling.labels import Labels

    templates = asked.templates[0] if len(asked.templates) == 1 else asked.templates
    return Labels(
        names=tuple(read_class_names(asked.labels)), templates=tuple(prompts_of(templates))
    )


@dataclass(frozen=True, kw_only=True)
class PushArguments:
    """Put a folder on the Hugging Face hub; without --upload only say what would be sent.

    Attributes:
        folder: a student's, an export's, a bundle's, or the folder of all bundles.
        to: USER/NAME.
        upload: really do it; you are logged in with `hf auth login`.
        private: make the repository private if it is made now.
        message: of the commit.
    """

    folder: Annotated[Path, tyro.conf.Positional]
    to: Annotated[str, tyro.conf.Positional]
    upload: bool = False
    private: bool = False
    message: str = "Upload with clip-distill"


def run_push(arguments: Sequence[str], console: Console) -> Outcome:
    """Print what goes, and send it if asked to."""
    asked = parse(PushArguments, "push", arguments)
    from students.hub import push_to_hub

    report = push_to_hub(
        asked.folder,
        asked.to,
        upload=asked.upload,
        private=asked.private,
        message=asked.message,
    )
    table = Table("file", "MB", title=f"{asked.folder} -> {report.repository}")
    for name, size in report.files.items():
        table.add_row(name, f"{size / 1e6:,.2f}")
    console.print(table)
    total = sum(report.files.values()) / 1e6
    done = f"sent: {report.address}" if report.address else "nothing sent; add --upload to send it"
    console.print(f"{len(report.files)} files, {total:,.1f} MB; {done}", soft_wrap=True)
    return Outcome(
        values={"to": report.repository, "files": report.files, "address": report.address}
    )
