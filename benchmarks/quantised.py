"""What a smaller file costs: bytes, distance from the model, top-1 and recall, format by format.

    python benchmarks/quantised.py RUN... --on glyphs/validation --calibrate glyphs/train

Each RUN is a trained student's folder; give the runs of several seeds. Every file is evaluated as
the model is, over the whole of `--on`, in its own runtime. Appends to `results/quantised.csv`.
"""

import argparse
import csv
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ladder_table import provenance

from distill import evaluate
from distill.samples import real_samples
from students import Student, export, load_student
from students.exporters.formats import FORMATS, QUANTIZATIONS, Variant, runner
from students.exporters.running import files_as_model
from teachers.clip_model import ClipModel

_SCORES = ("top1", "image_to_text_r1", "text_to_image_r1")
_TOWER = ("params", "bytes_ratio", "error", "kept_float")
_COLUMNS = (
    *("run", "format", "quantize", *_SCORES),
    *(f"{tower}_{name}" for tower in ("image", "text") for name in _TOWER),
)


def rows_of(run: str, asked: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Export and evaluate one student in every format and precision asked for."""
    student = load_student(run)
    samples = real_samples(asked.calibrate or asked.on, asked.samples)
    yield {"run": run, "format": "eager"} | _scores(evaluate(student, asked.on))
    for name in asked.formats:
        for quantize in [each for each in asked.quantize if each in FORMATS[name].write]:
            with tempfile.TemporaryDirectory() as folder:
                row, model = _files(student, Variant(name, quantize), samples, Path(folder) / "out")
                yield {"run": run, **row, **_scores(evaluate(model, asked.on))}


def _files(
    student: Student, variant: Variant, samples: list, out: Path
) -> tuple[dict[str, Any], ClipModel]:
    """Write both towers; returns what they weigh and how far they are, and the model they make."""
    export(student, out, formats=(str(variant),), samples=samples)
    written = json.loads((out / "metadata.json").read_text())["towers"]
    towers = {row["tower"]: row for row in written}
    image, text = (
        runner(variant, out / towers[tower]["path"], towers[tower]) for tower in ("image", "text")
    )
    row: dict[str, Any] = {"format": variant.format, "quantize": variant.quantize}
    for tower, params in (("image", student.image_params), ("text", student.text_params)):
        row[f"{tower}_params"] = params
        row[f"{tower}_bytes_ratio"] = f"{towers[tower]['bytes'] / (4 * params):.3f}"
        row[f"{tower}_error"] = f"{towers[tower]['relative_error']:.1e}"
        row[f"{tower}_kept_float"] = len(towers[tower]["kept_float"])
    return row, files_as_model(student, image, text, inside=False)


def _scores(found: dict[str, float]) -> dict[str, str]:
    return {name: f"{found[name]:.4f}" for name in _SCORES if name in found}


def main() -> None:
    """Go through the runs, print, append rows to a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", help="trained students' folders")
    parser.add_argument("--on", required=True, help="shards to evaluate on, whole")
    parser.add_argument("--calibrate", help="shards to calibrate on; those of --on when left out")
    parser.add_argument("--samples", type=int, default=64, help="for calibration and the check")
    parser.add_argument("--formats", nargs="+", default=["onnx", "executorch", "litert"])
    parser.add_argument("--quantize", nargs="+", default=list(QUANTIZATIONS))
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    asked = parser.parse_args()
    path = asked.results / "quantised.csv"
    new = not path.exists()
    with path.open("a", newline="", buffering=1) as file:
        writer = csv.DictWriter(file, [*_COLUMNS, "provenance"], restval="")
        if new:
            writer.writeheader()
        for run in asked.runs:
            for row in rows_of(run, asked):
                writer.writerow({**row, "run": Path(run).name, "provenance": provenance()})
                print(row, flush=True)


if __name__ == "__main__":
    main()
