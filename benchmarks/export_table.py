"""What each format weighs and loses in each precision: `results/export-formats.csv`.

    python benchmarks/export_table.py runs/ladder/emoji64/teacher-a \\
        --samples runs/ladder/emoji64/source/heldout

Every combination that `students.exporters.FORMATS` has and this machine has the packages for is
exported with its own tolerance, apart from the others, on 16 pictures and their captions. One that
is refused is a line that says why.
"""

import argparse
import csv
import importlib.util
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from ladder_table import provenance
from rich.console import Console

from distill.samples import real_samples
from students import Student, export, load_student
from students.exporters import FORMATS
from students.exporters.parity import Samples

_TOWERS = ("image", "text")
_COLUMNS = (
    *("format", "precision"),
    *(f"{tower}_{name}" for tower in _TOWERS for name in ("kb", "error")),
    *("layers_kept_float", "refused", "provenance"),
)
Row = dict[str, object]


def left_out(only: Sequence[str]) -> list[str]:
    """List the combinations that the whole table has and this call does not measure."""
    found = []
    for name, backend in FORMATS.items():
        here = all(importlib.util.find_spec(package) is not None for package in backend.packages)
        for quantize in backend.write:
            asked = not only or f"{name}:{quantize}" in only or name in only
            if not (here and asked):
                found.append(f"{name}:{quantize}")
    return found


def measure(model: Student, samples: Samples, without: Sequence[str]) -> Iterator[Row]:
    """Export every combination but those `without`, one line each."""
    for name, backend in FORMATS.items():
        for quantize in backend.write:
            if f"{name}:{quantize}" not in without:
                found = _exported(model, f"{name}:{quantize}", samples)
                yield {"format": name, "precision": quantize, **found}


def _exported(model: Student, variant: str, samples: Samples) -> Row:
    with tempfile.TemporaryDirectory() as folder:
        try:
            report = export(model, Path(folder) / "out", formats=[variant], samples=samples)
        except RuntimeError as error:
            return {"refused": " ".join(str(error).split())}
    towers = {row["tower"]: row for row in report.rows}
    row: Row = {"layers_kept_float": sum(len(towers[name]["kept_float"]) for name in _TOWERS)}
    for name in _TOWERS:
        error = towers[name]["relative_error"]
        row[f"{name}_kb"] = round(towers[name]["bytes"] / 1000)
        row[f"{name}_error"] = "not run" if error is None else f"{error:.1e}"
    return row


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("student")
    parser.add_argument("--samples", required=True, help="shards")
    parser.add_argument("--only", nargs="*", default=[], help="FORMAT or FORMAT:QUANTIZE")
    parser.add_argument("--out", type=Path, default=Path("runs/export-formats"))
    parser.add_argument("--results", type=Path, help="benchmarks/results, or --out if less")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    model, samples = load_student(asked.student), real_samples(asked.samples, 16)
    made_by = provenance()  # before the first: the exporters may write to standard output
    without, console = left_out(asked.only), Console(stderr=True)
    results = asked.results or results_folder(asked.out, without)
    if without:
        console.print(f"not measured: {' '.join(without)}; so to {results}", highlight=False)
    results.mkdir(parents=True, exist_ok=True)
    path = results / "export-formats.csv"
    partial = path.with_name(f"{path.name}.partial")
    with partial.open("w", newline="", buffering=1) as file:
        writer = csv.DictWriter(file, _COLUMNS, restval="")
        writer.writeheader()
        for row in measure(model, samples, without):
            writer.writerow({**row, "provenance": made_by})
            console.print(row, highlight=False)
    partial.replace(path)


def results_folder(out: Path, without: Sequence[str]) -> Path:
    """Where the table goes: the committed one is whole, and no other replaces it."""
    return out if without else Path(__file__).parent / "results"


if __name__ == "__main__":
    main()
