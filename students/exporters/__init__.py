"""Files that a phone runs, checked against the model they came from."""

from students.exporters.bundle import FORMATS, ExportReport, ExportRow, export

__all__ = ["FORMATS", "ExportReport", "ExportRow", "export"]
