"""What each format weighs and loses in each precision: the table of docs/export.md.

    python benchmarks/export_table.py runs/demo/student --samples runs/demo/glyphs/unseen_pairs

Every combination that `students.exporters.FORMATS` has and this machine has the packages for is
exported with its own tolerance, apart from the others; the table is printed as Markdown.
"""

import argparse
import importlib.util
import json
import tempfile
from pathlib import Path

from rich.console import Console

from distill.samples import real_samples
from students import export, load_student
from students.exporters import FORMATS


def measure(student: str, samples: str, only: list[str]) -> list[dict]:
    """Return the rows of every export, and a row with `failed` for each that was refused."""
    model, pairs, rows = load_student(student), real_samples(samples, 16), []
    for name, backend in FORMATS.items():
        if any(importlib.util.find_spec(package) is None for package in backend.packages):
            continue
        for quantize in backend.write:
            if only and f"{name}:{quantize}" not in only and name not in only:
                continue
            with tempfile.TemporaryDirectory() as folder:
                try:
                    report = export(
                        model, Path(folder) / "out", formats=[f"{name}:{quantize}"], samples=pairs
                    )
                    rows += [dict(row) for row in report.rows]
                except RuntimeError as error:
                    rows.append({"format": name, "quantize": quantize, "failed": str(error)})
            Console(stderr=True).print(f"{name}:{quantize}")
    return rows


def table(rows: list[dict]) -> str:
    """One line a combination: bytes and relative error of both towers."""
    lines = [
        "| format | precision | image kB | error | text kB | error | layers kept float |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        if "failed" in row:
            lines.append(f"| {row['format']} | {row['quantize']} | refused: {row['failed']} |")
    by_pair: dict[tuple[str, str], dict[str, dict]] = {}
    for row in rows:
        if "failed" not in row:
            by_pair.setdefault((row["format"], row["quantize"]), {})[row["tower"]] = row
    for (name, quantize), towers in by_pair.items():
        cells = [f"| {name} | {quantize}"]
        for tower in ("image", "text"):
            error = towers[tower]["relative_error"]
            cells.append(f"{towers[tower]['bytes'] / 1000:,.0f}")
            cells.append("not run" if error is None else f"{error:.1e}")
        cells.append(f"{sum(len(row['kept_float']) for row in towers.values())} |")
        lines.append(" | ".join(cells))
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("student")
    parser.add_argument("--samples", required=True)
    parser.add_argument("--only", nargs="*", default=[], help="FORMAT or FORMAT:QUANTIZE")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    rows = measure(asked.student, asked.samples, asked.only)
    print(json.dumps(rows, indent=2) if asked.json else table(rows))


if __name__ == "__main__":
    main()
