"""Reports: one self-contained HTML page, the same numbers as JSON, and a table for the terminal."""

from distill.report.data import (
    Confusion,
    Curve,
    ExportedFile,
    ImageToTextCase,
    ReportData,
    RetrievalCase,
    Row,
)
from distill.report.terminal import print_rows
from distill.report.writing import write_report, write_report_json

__all__ = [
    "Confusion",
    "Curve",
    "ExportedFile",
    "ImageToTextCase",
    "ReportData",
    "RetrievalCase",
    "Row",
    "print_rows",
    "write_report",
    "write_report_json",
]
