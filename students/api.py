"""The public names of `students`, which `students/__init__.py` hands out."""

from students.building import build_student
from students.catalog import CATALOG, CatalogStudent
from students.exporters import ExportReport, export
from students.inheritance import InheritancePlan, apply_plan, inherit, plan_inheritance
from students.loading import load_student
from students.profiling import Profile, TowerProfile, profile
from students.spec import OpenClipSpec, StudentSpec, TextSpec
from students.student import Student, Tower

__all__ = [
    "CATALOG",
    "CatalogStudent",
    "ExportReport",
    "InheritancePlan",
    "OpenClipSpec",
    "Profile",
    "Student",
    "StudentSpec",
    "TextSpec",
    "Tower",
    "TowerProfile",
    "apply_plan",
    "build_student",
    "export",
    "inherit",
    "load_student",
    "plan_inheritance",
    "profile",
]
