"""`report.html` and `report.json` from one `ReportData`.

Both are written beside their name and renamed, so that a reader never sees half a file.
"""

import json
import os
from dataclasses import asdict
from pathlib import Path

from distill.finite_json import without_nan
from distill.report.data import ReportData
from distill.report.page import render
from distill.report.summary import summarise

_ROW_KEYS = (
    "name", "role", "distilled", "image_params", "text_params", "steps", "metrics", "retention",
)  # fmt: skip


def write_report(path: str | Path, data: ReportData) -> Path:
    """Write the page: one file that needs no network, no script and no other file."""
    return write_page(Path(path), render(data))


def write_report_json(path: str | Path, data: ReportData) -> Path:
    """Write the numbers of the page, without pictures; what is not finite becomes null."""
    summary = summarise(data)
    record = {
        "title": data.title,
        "headline": summary.headline,
        "reference": summary.reference.name if summary.reference else None,
        "rows": [{key: asdict(row)[key] for key in _ROW_KEYS} for row in data.rows],
        "controls": [row.name for row in data.rows if row.control],
        "exports": [asdict(export) for export in data.exports],
        "timings": dict(data.timings),
        "curves": [asdict(curve) for curve in data.curves],
        "command": data.command,
        "environment": dict(data.environment),
        "lineage": [asdict(step) for step in data.lineage],
        "confusions": [asdict(pair) for pair in data.confusions],
        "ladders": [asdict(ladder) for ladder in data.ladders],
        "measured": [asdict(each) for each in data.measured],
        "beyond": [asdict(each) for each in data.beyond],
        "missing": dict(data.missing),
        "notes": list(data.notes),
        "skipped": dict(data.skipped),
    }
    return write_page(Path(path), json.dumps(without_nan(record), indent=2, allow_nan=False) + "\n")


def write_page(path: Path, text: str) -> Path:
    """Write a text beside its name, then rename it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    # Lone surrogates cannot be written; they come from captions.
    partial.write_text(text, encoding="utf-8", errors="replace")
    os.replace(partial, path)
    return path
