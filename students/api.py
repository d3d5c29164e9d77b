"""The public names of `students`, which `students/__init__.py` hands out."""

from students.building import build_student
from students.bundling.card import CardFacts, Origin
from students.bundling.folder import BundleOptions
from students.bundling.labels import Labels
from students.bundling.making import BundleReport, bundle
from students.catalog import CATALOG, CatalogStudent
from students.exporters import ExportReport, export
from students.hub import PushReport, push_to_hub
from students.inheritance import InheritancePlan, apply_plan, inherit, plan_inheritance
from students.loading import load_student
from students.profiling import Profile, TowerProfile, profile
from students.spec import OpenClipSpec, StudentSpec, TextSpec
from students.stock_open_clip import save_for_open_clip
from students.student import Student, Tower

__all__ = [
    "CATALOG",
    "BundleOptions",
    "BundleReport",
    "CardFacts",
    "CatalogStudent",
    "ExportReport",
    "InheritancePlan",
    "Labels",
    "OpenClipSpec",
    "Origin",
    "Profile",
    "PushReport",
    "Student",
    "StudentSpec",
    "TextSpec",
    "Tower",
    "TowerProfile",
    "apply_plan",
    "build_student",
    "bundle",
    "export",
    "inherit",
    "load_student",
    "plan_inheritance",
    "profile",
    "push_to_hub",
    "save_for_open_clip",
]
