"""What a smaller file costs: bytes, distance from the model, top-1 and recall, format by format.

    python benchmarks/quantised.py --train 0 1 2
    python benchmarks/quantised.py RUN... --on glyphs/validation

The first trains a student for each seed (`quantised_students`); the second takes trained runs, at
best those of several seeds. Each is calibrated on its run's stored views, as `distill export` does,
and every file is evaluated as the model is, over the whole of `--on`, in its own runtime. Rows go
to `results/quantised.csv`; those that are there are not measured again. At the end what each
precision loses is printed as Markdown, over the runs.
"""

import argparse
import csv
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import quantised_students
from ladder_table import mean_and_error, provenance
from rich.console import Console

from distill import evaluate
from distill.calibration_samples import stored_calibration
from distill.samples import real_samples
from students import Student, export, load_student
from students.exporters.calibration import Calibration
from students.exporters.formats import FORMATS, QUANTIZATIONS, Variant, runner
from students.exporters.parity import Samples
from students.exporters.running import files_as_model
from teachers.clip_model import ClipModel

_SCORES = ("top1", "image_to_text_r1", "text_to_image_r1")
_TOWER = ("params", "bytes_ratio", "error", "kept_float")
_COLUMNS = (
    *("run", "format", "quantize", *_SCORES),
    *(f"{tower}_{name}" for tower in ("image", "text") for name in _TOWER),
    "provenance",
)
Row = dict[str, Any]


def rows_of(run: str, asked: argparse.Namespace, done: list[Row]) -> Iterator[Row]:
    """Export and evaluate one student in every format and precision asked for."""
    name, student = Path(run).name, load_student(run)
    have = {(row["format"], row["quantize"]) for row in done if row["run"] == name}
    if ("eager", "") not in have:
        found = evaluate(student, asked.on)
        yield {"run": name, "format": "eager", "quantize": ""} | _scores(found)
    samples, calibration = real_samples(asked.on, asked.samples), None
    for form in asked.formats:
        for quantize in [each for each in asked.quantize if each in FORMATS[form].write]:
            if (form, quantize) in have:
                continue
            calibration = calibration or stored_calibration(student, run, asked.samples)
            with tempfile.TemporaryDirectory() as folder:
                variant, out = Variant(form, quantize), Path(folder) / "out"
                row, model = files_of(student, variant, samples, calibration, out)
                yield {"run": name, **row, **_scores(evaluate(model, asked.on))}


def files_of(
    student: Student,
    variant: Variant,
    samples: Samples,
    calibration: Calibration,
    out: Path,
    tolerance: float | None = None,
) -> tuple[Row, ClipModel]:
    """Write both towers; returns what they weigh and how far they are, and the model they make."""
    export(
        student,
        out,
        formats=(str(variant),),
        samples=samples,
        calibration=calibration,
        tolerance=tolerance,
    )
    written = json.loads((out / "metadata.json").read_text())["towers"]
    towers = {row["tower"]: row for row in written}
    image, text = (
        runner(variant, out / towers[tower]["path"], towers[tower]) for tower in ("image", "text")
    )
    row: Row = {"format": variant.format, "quantize": variant.quantize}
    for tower, params in (("image", student.image_params), ("text", student.text_params)):
        row[f"{tower}_params"] = params
        row[f"{tower}_bytes_ratio"] = f"{towers[tower]['bytes'] / (4 * params):.3f}"
        row[f"{tower}_error"] = f"{towers[tower]['relative_error']:.1e}"
        row[f"{tower}_kept_float"] = len(towers[tower]["kept_float"])
    return row, files_as_model(student, image, text, inside=False)


def _scores(found: dict[str, float]) -> dict[str, str]:
    return {name: f"{found[name]:.4f}" for name in _SCORES if name in found}


def table(rows: list[Row]) -> str:
    """Points of top-1 lost, each run's files against the run itself: mean +- standard error."""
    eager = {row["run"]: 100 * float(row["top1"]) for row in rows if row["format"] == "eager"}
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if row["format"] != "eager":
            groups.setdefault((row["format"], row["quantize"]), []).append(row)
    lines = [
        "| format | precision | seeds | top-1 lost, points | of fp32 bytes: image | text | both "
        "| error: image | text | layers kept float |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for (form, quantize), found in groups.items():
        mean, error = mean_and_error(
            [eager[row["run"]] - 100 * float(row["top1"]) for row in found]
        )
        cells = [f"{form} | {quantize} | {len(found)} | {mean:.2f} +- {error:.2f}"]
        image, text, both = (_worst_share(found, towers) for towers in (("image",), ("text",), ()))
        cells += [f"{image:.1%}", f"{text:.1%}", f"{both:.1%}"]
        for tower in ("image", "text"):
            cells.append(f"{max(float(row[f'{tower}_error']) for row in found):.1e}")
        kept = [int(row["image_kept_float"]) + int(row["text_kept_float"]) for row in found]
        lines.append(f"| {' | '.join([*cells, str(max(kept))])} |")
    return "\n".join(lines)


def _worst_share(rows: list[Row], towers: tuple[str, ...]) -> float:
    """The largest share of four bytes a number that a run's files have."""
    names = towers or ("image", "text")
    shares = []
    for row in rows:
        params = {name: int(row[f"{name}_params"]) for name in names}
        weighed = sum(float(row[f"{name}_bytes_ratio"]) * params[name] for name in names)
        shares.append(weighed / sum(params.values()))
    return max(shares)


def _read(path: Path) -> list[Row]:
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="*", help="trained students' folders")
    parser.add_argument("--train", nargs="+", type=int, default=[], help="seeds to train first")
    parser.add_argument("--out", type=Path, default=Path("runs/quantised"), help="of --train")
    parser.add_argument("--on", help="shards to evaluate on, whole; by default those of --train")
    parser.add_argument("--samples", type=int, default=64, help="for calibration and the check")
    parser.add_argument("--formats", nargs="+", default=["onnx", "executorch", "litert"])
    parser.add_argument("--quantize", nargs="+", default=list(QUANTIZATIONS))
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    asked = parser.parse_args()
    if not (asked.train or (asked.runs and asked.on)):
        parser.error("give runs and --on, or --train SEED...")
    return asked


def main() -> None:
    """Go through the runs, append rows to the table, print what is lost."""
    asked, console = _arguments(), Console()
    if asked.train:
        world, trained = quantised_students.train(asked.train, asked.out, console)
        asked.runs, asked.on = [*asked.runs, *trained], asked.on or world.splits["validation"]
    path = asked.results / "quantised.csv"
    rows = _read(path)
    with path.open("a", newline="", buffering=1) as file:
        writer = csv.DictWriter(file, _COLUMNS, restval="")
        if not rows:
            writer.writeheader()
        for run in asked.runs:
            for row in rows_of(run, asked, rows):
                writer.writerow({**row, "provenance": provenance()})
                console.print(row, highlight=False)
    names = {Path(run).name for run in asked.runs}
    print(table([row for row in _read(path) if row["run"] in names]))


if __name__ == "__main__":
    main()
