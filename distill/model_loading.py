"""What a user names on the command line, as a model."""

import json
from pathlib import Path

from students import load_student
from students.student import CONFIG_FILE
from teachers import ClipModel, Teacher, load_teacher
from teachers.loading import teacher_name
from teachers.teacher import Precision


def load_model(spec: str, precision: Precision = "fp32", device: str = "cpu") -> ClipModel:
    """Load what a user names on the command line: a student's folder, or any teacher."""
    if (Path(spec) / CONFIG_FILE).is_file():
        student = load_student(spec)
        if precision == "fp32":
            return student.to(device)
        return load_teacher(student, precision=precision, device=device)
    return load_teacher(spec, precision=precision, device=device)


def load_frozen(spec: str, precision: Precision = "fp32", device: str = "cpu") -> Teacher:
    """Load the same as a teacher."""
    model = load_model(spec, precision, device)
    return model if isinstance(model, Teacher) else load_teacher(model, device=device)


def name_of(spec: str) -> str:
    """What the model would be called, found out without loading it; raises as `teacher_name`."""
    config = Path(spec) / CONFIG_FILE
    return json.loads(config.read_text())["name"] if config.is_file() else teacher_name(spec)
