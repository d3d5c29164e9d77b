"""Command-line arguments from frozen dataclasses, through tyro; usage errors exit with code 2."""

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import tyro

from students import load_student
from students.student import CONFIG_FILE
from teachers import ClipModel, load_teacher
from teachers.teacher import Precision

Arguments = TypeVar("Arguments")


def parse(
    kind: type[Arguments],
    verb: str,
    arguments: Sequence[str],
    *,
    default: Arguments | None = None,
) -> Arguments:
    """Fill a dataclass from the command line; `--help` prints its docstring and exits."""
    if default is None:
        return tyro.cli(kind, prog=f"distill {verb}", args=list(arguments))
    return tyro.cli(kind, prog=f"distill {verb}", args=list(arguments), default=default)


def load_model(spec: str, precision: Precision = "fp32", device: str = "cpu") -> ClipModel:
    """Load what a user names on the command line: a student's folder, or any teacher."""
    if (Path(spec) / CONFIG_FILE).is_file():
        student = load_student(spec)
        if precision == "fp32":
            return student.to(device)
        return load_teacher(student, precision=precision, device=device)
    return load_teacher(spec, precision=precision, device=device)
