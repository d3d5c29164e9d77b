"""Reports: one self-contained HTML page, the same numbers as JSON, and a table for the terminal."""

from distill.report.data import (
    Beyond,
    Confusion,
    ConfusionMatrix,
    Curve,
    ExportedFile,
    ImageToTextCase,
    Measured,
    ReportData,
    RetrievalCase,
    Row,
    Step,
    TowerCost,
)
from distill.report.ladder import Ladder, find_ladders, read_ladder
from distill.report.terminal import print_rows
from distill.report.writing import write_report, write_report_json

__all__ = [
    "Beyond",
    "Confusion",
    "ConfusionMatrix",
    "Curve",
    "ExportedFile",
    "ImageToTextCase",
    "Ladder",
    "Measured",
    "ReportData",
    "RetrievalCase",
    "Row",
    "Step",
    "TowerCost",
    "find_ladders",
    "print_rows",
    "read_ladder",
    "write_report",
    "write_report_json",
]
