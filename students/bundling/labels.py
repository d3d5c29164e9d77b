"""Labels that an app tells apart: embedded here, so that the app needs no text tower."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from students.student import Student
from teachers.clip_model import unit_rows

LABELS_FILE = "labels.json"
LABEL_ROWS_FILE = "labels.f32"


@dataclass(frozen=True, kw_only=True)
class Labels:
    """Names of classes and the prompts they are put into.

    Attributes:
        names: one a class.
        templates: prompts with {} for the name; a class is the mean over them.
    """

    names: tuple[str, ...]
    templates: tuple[str, ...] = ("a photo of a {}.",)

    def __post_init__(self) -> None:
        """Refuse what cannot be told apart."""
        if len(set(self.names)) < len(self.names) or not all(map(str.strip, self.names)):
            twice = next((n for n in self.names if self.names.count(n) > 1), "")
            raise ValueError(f"label {twice!r} is empty or there twice; write each once")
        if len(self.names) < 2:
            raise ValueError(f"a classifier needs two labels or more, got {list(self.names)}")
        without = [template for template in self.templates if "{}" not in template]
        if without or not self.templates:
            raise ValueError(f"template {(without or [''])[0]!r} has no {{}} for the label's name")


def label_rows(student: Student, labels: Labels) -> Float[Tensor, "n d"]:
    """Embed the classes: unit rows, each the direction of the mean over the templates."""
    return unit_rows(torch.stack([_row(student, name, labels.templates) for name in labels.names]))


def write_labels(student: Student, labels: Labels, folder: Path) -> dict[str, Any]:
    """Write the names, and the rows as little-endian float32; returns what labels.json says."""
    rows = label_rows(student, labels).cpu().float().numpy().astype("<f4")
    rows.tofile(folder / LABEL_ROWS_FILE)
    return {
        "labels": list(labels.names),
        "templates": list(labels.templates),
        "rows": LABEL_ROWS_FILE,
        "shape": list(rows.shape),
    }


def _row(student: Student, name: str, templates: Sequence[str]) -> Float[Tensor, " d"]:
    with torch.no_grad():
        return student.encode_text([t.replace("{}", name) for t in templates]).mean(dim=0)
