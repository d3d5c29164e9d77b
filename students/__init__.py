"""Small dual encoders: built by name, specification or module; saved, profiled, exported."""

from students.building import build_student
from students.catalog import CATALOG
from students.loading import load_student
from students.spec import StudentSpec, TextSpec
from students.student import Student

__all__ = [
    "CATALOG",
    "Student",
    "StudentSpec",
    "TextSpec",
    "build_student",
    "load_student",
]
