"""What quantisation-aware distillation gains: top-1 of files, three ways, for each trained run.

    python benchmarks/quantization_aware.py runs/ladder/glyphs/rows/distilled/lr-0.008-seed-* \\
        --store runs/demo/reinforced --on runs/demo/glyphs/validation

Each run is a student's folder. "plain" is its file as it is; "same-steps" that of the student after
more steps of the recipe without rounding; "aware" after the same steps on the same batches with it.
No layer is left float, so that rounding costs what it costs. Appends to
`results/quantization-aware.csv`; rows that are there are not measured again.
"""

import argparse
import csv
import tempfile
from dataclasses import replace
from pathlib import Path

from ladder_table import mean_and_error, provenance
from quantised import files_of
from rich.console import Console

from distill import evaluate
from distill.calibration_samples import stored_calibration
from distill.config import RunConfig
from distill.recipes import find_recipe
from distill.recipes.demo import demo
from distill.samples import real_samples
from distill.starting import train_several
from students import load_student
from students.exporters.formats import Variant
from students.rounding import Precision

_COLUMNS = ("run", "way", "precision", "steps", "top1", "top1_of_file", "provenance")
_WITHOUT_LIMIT = 1e9


def configs_of(run: str, asked: argparse.Namespace) -> list[RunConfig]:
    """Say how a run goes on without and with rounding, everything else equal."""
    recipe, small, name = find_recipe("quantization_aware"), demo(), Path(run).name
    base = replace(
        recipe,
        student=replace(recipe.student, name=run),
        data=replace(small.data, store=asked.store),
        objective=small.objective,
        optimizer=replace(recipe.optimizer, lr=asked.lr),
        schedule=recipe.schedule.of_length(asked.steps),
    )
    ways: dict[str, Precision] = {"same-steps": "none", "aware": asked.precision}
    folder = asked.out / asked.precision
    return [
        replace(base, quantize=rounded, out=str(folder / f"{name}-{way}"))
        for way, rounded in ways.items()
    ]


def measure(folder: str, run: str, asked: argparse.Namespace) -> dict[str, str]:
    """Top-1 of a student, and of its ONNX files."""
    student = load_student(folder)
    samples = real_samples(asked.on, 64)
    with tempfile.TemporaryDirectory() as temporary:
        variant, out = Variant("onnx", asked.precision), Path(temporary) / "out"
        calibration = stored_calibration(student, run, 64)
        _, model = files_of(student, variant, samples, calibration, out, _WITHOUT_LIMIT)
        file = evaluate(model, asked.on, tasks=("zero_shot",))["top1"]
    own = evaluate(student, asked.on, tasks=("zero_shot",))["top1"]
    return {"top1": f"{own:.4f}", "top1_of_file": f"{file:.4f}"}


def table(rows: list[dict[str, str]]) -> str:
    """Points of top-1, each way's mean over the runs, and paired with those of equal steps."""
    found: dict[str, dict[str, float]] = {}
    for row in rows:
        found.setdefault(row["way"], {})[row["run"]] = 100 * float(row["top1_of_file"])
    lines = ["| way | top-1 of the file | minus same steps |", "|---|---:|---:|"]
    for way, scores in found.items():
        mean, error = mean_and_error(list(scores.values()))
        apart = mean_and_error([score - found["same-steps"][run] for run, score in scores.items()])
        beside = "" if way == "same-steps" else f"{apart[0]:+.2f} +- {apart[1]:.2f}"
        lines.append(f"| {way} | {mean:.2f} +- {error:.2f} | {beside} |")
    return "\n".join(lines)


def main() -> None:
    """Train what is missing, measure what is missing, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", help="trained students' folders")
    parser.add_argument("--store", required=True, help="the reinforced dataset to learn from")
    parser.add_argument("--on", required=True, help="shards to evaluate on, whole")
    parser.add_argument("--precision", default="4bit-weights", choices=["int8", "4bit-weights"])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--out", type=Path, default=Path("runs/quantization-aware"))
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    asked = parser.parse_args()
    every = [configs_of(run, asked) for run in asked.runs]
    train_several([config for configs in every for config in configs])
    path = asked.results / "quantization-aware.csv"
    rows = _read(path)
    with path.open("a", newline="", buffering=1) as file:
        writer = csv.DictWriter(file, _COLUMNS)
        if not rows:
            writer.writeheader()
        for run, configs in zip(asked.runs, every, strict=True):
            plain, same, aware = run, configs[0].out, configs[1].out
            for way, folder in (("plain", plain), ("same-steps", same), ("aware", aware)):
                key = {"run": Path(run).name, "way": way, "precision": asked.precision}
                key["steps"] = "0" if way == "plain" else str(asked.steps)
                if any(key.items() <= row.items() for row in rows):
                    continue
                row = {**key, **measure(folder, same, asked), "provenance": provenance()}
                writer.writerow(row)
                Console().print(row, highlight=False)
    print(table([row for row in _read(path) if row["precision"] == asked.precision]))


def _read(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


if __name__ == "__main__":
    main()
