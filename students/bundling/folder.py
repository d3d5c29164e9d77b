"""One format's folder, whole: towers, feeding, labels, sample, card."""

import hashlib
import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from students.bundling.browser import ORT_WEB_VERSION, write_page
from students.bundling.card import CardFacts, render_card, template
from students.bundling.formats import BUNDLE_FORMATS, BundleFormat
from students.bundling.labels import LABELS_FILE, Labels, write_labels
from students.bundling.vocabulary import TOKENIZER_FILE, write_vocabulary
from students.exporters.formats import FORMATS
from students.exporters.metadata import facts
from students.student import Student

SHIPPED = Path(__file__).parent / "shipped"
PREPROCESSING_FILE = "preprocessing.json"
METADATA_FILE = "metadata.json"
_PACKAGE = "students.bundling.shipped."


@dataclass(frozen=True, kw_only=True)
class BundleOptions:
    """What goes into bundles besides the towers.

    Attributes:
        labels: classes to tell apart; their text embeddings are made now.
        card: what the model card says of the student's origin.
        ort_web: a folder of onnxruntime-web's distribution, for a web page that loads nothing from
            elsewhere; by default the page names a CDN.
    """

    labels: Labels | None = None
    card: CardFacts = field(default_factory=CardFacts)
    ort_web: Path | None = None


def complete_bundle(
    folder: Path,
    student: Student,
    format_name: str,
    exported: Mapping[str, Any],
    options: BundleOptions,
) -> None:
    """Write beside a format's towers all that is needed to use them.

    Args:
        folder: holds the towers' files already.
        student: the model they come from.
        format_name: a key of `BUNDLE_FORMATS`.
        exported: `towers`, by name what `metadata.json` says of them with their `file`; `versions`.
        options: labels, card, web page.
    """
    kind = BUNDLE_FORMATS[format_name]
    write_json(folder / PREPROCESSING_FILE, student.preprocess.config())
    algorithm = write_vocabulary(student.tokenizer, folder)
    described = json.loads((folder / TOKENIZER_FILE).read_text(encoding="utf-8"))
    text = template("algorithm.md.j2").render(described)
    (folder / "TOKENIZER.md").write_text(text, encoding="utf-8")
    labels = None
    if options.labels is not None:
        labels = write_labels(student, options.labels, folder)
        write_json(folder / LABELS_FILE, labels)
    requirements = _write_program(folder, kind, algorithm)
    if kind.page:
        write_page(folder, SHIPPED, options.ort_web)
    metadata = _metadata(student, format_name, exported)
    # Whether the files' own score was measured is the export's to say.
    measured = [each for each in exported["verdicts"] if each.get("metric") is not None]
    card = render_card(
        options.card,
        metadata,
        format=kind,
        requirements=requirements,
        labels=labels,
        measured=measured[0] if measured else None,
        threads="its own choice of threads" if FORMATS[format_name].own_threads else "one thread",
    )
    (folder / "README.md").write_text(card, encoding="utf-8")
    write_json(folder / METADATA_FILE, {**metadata, "files": _files(folder)})


def _write_program(folder: Path, kind: BundleFormat, algorithm: str | None) -> list[str]:
    """Copy the Python sample and the snippets; returns what the sample needs."""
    copied = {name: name for name in ("sample.py", "feeding.py", "words.py")}
    copied |= {kind.runtime: "runtime.py"}
    copied |= {source: target for source, (target, _) in kind.snippets.items()}
    for source, target in copied.items():
        text = (SHIPPED / source).read_text(encoding="utf-8")
        # In a bundle the files lie side by side and no package of ours is there.
        text = text.replace(f"{_PACKAGE}runtime_onnx", "runtime").replace(_PACKAGE, "")
        (folder / target).write_text(text, encoding="utf-8")
    needed = ["numpy", "pillow", *kind.requirements]
    needed += ["tokenizers"] if algorithm == "huggingface" else []
    (folder / "requirements.txt").write_text("\n".join(needed) + "\n", encoding="utf-8")
    return needed


def _metadata(student: Student, format_name: str, exported: Mapping[str, Any]) -> dict[str, Any]:
    page = {"onnxruntime-web": ORT_WEB_VERSION} if BUNDLE_FORMATS[format_name].page else {}
    return {
        "format": 1,
        "runtime": format_name,
        **facts(student),
        "towers": exported["towers"],
        "machine": f"{platform.system()} {platform.machine()}",
        "versions": {**exported["versions"], **page},
    }


def _files(folder: Path) -> dict[str, dict[str, Any]]:
    """Size and sha256 of every file but metadata.json itself; of a folder's (CoreML's) each."""
    found = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        found[name] = {"bytes": path.stat().st_size, "sha256": digest}
    return found


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write JSON that a person can read."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
