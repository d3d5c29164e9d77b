"""The ladder's table: mean and standard error per row, paired differences, verdicts."""

import csv
import json
import math
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from ladder_against import base_of, same_work_as
from ladder_world import World
from rich.console import Console
from rich.table import Table

from distill.provenance import CODE, short_commit
from distill.run_log import write_json

_COLUMNS = (
    *("row", "metric", "mean", "standard_error", "seeds", "scores"),
    *("minus_undistilled", "verdict", "minus_control", "verdict_control"),
    *("base", "minus_base", "verdict_base", "same_work", "minus_same_work", "verdict_same_work"),
    *("learning_rate", "steps", "image_params", "seconds"),
)


@dataclass(frozen=True, kw_only=True)
class Finished:
    """One row's runs, in the order of their seeds."""

    name: str
    rate: float
    runs: list[dict]

    def scores(self, key: str) -> list[float]:
        """One score a seed, in percent."""
        return [100 * run["metrics"][key] for run in self.runs]


def mean_and_error(values: list[float]) -> tuple[float, float]:
    """Mean and its standard error; the error of a single value is not known."""
    mean = sum(values) / len(values)
    if len(values) < 2:
        return mean, math.nan
    variance = sum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return mean, math.sqrt(variance / len(values))


def verdict(differences: list[float]) -> str:
    """Wins or loses: the same sign for every seed, and beyond two standard errors.

    With three seeds that is Student's t of 2 with 2 degrees of freedom: of rows that change nothing
    about one in six (0.18) is called so.
    """
    mean, error = mean_and_error(differences)
    if math.isnan(error):
        return "one seed"
    one_sided = min(differences) > 0 or max(differences) < 0
    if abs(mean) <= 2 * error or not one_sided:
        return "noise"
    return "wins" if mean > 0 else "loses"


def write_row(folder: Path, world: World, row: Finished) -> None:
    """Commit one row's result alone: `ladder-NAME/ROW.json`."""
    target = folder / f"ladder-{world.name}"
    target.mkdir(parents=True, exist_ok=True)
    write_json(target / f"{row.name}.json", {**asdict(row), "provenance": provenance()})


def read_rows(folder: Path, world: World, order: Iterable[str]) -> list[Finished]:
    """Read every committed row, of this call or an earlier one, in the table's order."""
    rows = []
    for name in order:
        path = folder / f"ladder-{world.name}" / f"{name}.json"
        if path.is_file():
            values = json.loads(path.read_text())
            values.pop("provenance")
            rows.append(Finished(**values))
    return rows


def committed_rows(folder: Path, world: World, order: Sequence[str]) -> list[Finished]:
    """Read rows that must all be there.

    Raises:
        SystemExit: one is not; it says what makes it.
    """
    rows = read_rows(folder, world, order)
    missing = [name for name in order if name not in {row.name for row in rows}]
    if missing:
        raise SystemExit(
            f"{folder / f'ladder-{world.name}'} has no row {', '.join(missing)}: run "
            f"`python benchmarks/ladder.py --data FOLDER --rows {' '.join(missing)}` first, with "
            "the same --data and --out"
        )
    return rows


def write_table(folder: Path, world: World, rows: list[Finished]) -> Path:
    """Write `ladder-NAME.csv`: a line per row, split and metric; teachers first."""
    path = folder / f"ladder-{world.name}.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(_COLUMNS)
        for result in world.teacher_results():
            for key in _keys(world):
                if key not in result["metrics"]:
                    continue
                score = f"{100 * result['metrics'][key]:.2f}"
                size, seconds = result["image_params"], result["seconds"]
                steps = result["steps"]
                writer.writerow(
                    [result["name"], key, score, "", 1, score, *[""] * 11, steps, size, seconds]
                )
        for row in rows:
            for key in _keys(world):
                writer.writerow(_line(row, key, rows))
        file.write(f"# {provenance()}\n")
    return path


def _line(row: Finished, key: str, rows: list[Finished]) -> list[object]:
    mean, error = mean_and_error(row.scores(key))
    compared = [*_against(row, key, rows, "undistilled"), *_against(row, key, rows, "control")]
    for other in (base_of(row.name), same_work_as(row.name)):
        compared += [other or "", *_against(row, key, rows, other)]
    first = row.runs[0]
    seconds = max(run["seconds"] for run in row.runs)
    scores = " ".join(f"{score:.2f}" for score in row.scores(key))
    return [
        row.name, key, f"{mean:.2f}", f"{error:.2f}", len(row.runs), scores, *compared,
        row.rate, first["steps"], first["image_params"], seconds,
    ]  # fmt: skip


def _against(row: Finished, key: str, rows: list[Finished], name: str | None) -> list[str]:
    differences = paired(row, key, rows, name)
    if not differences:
        return ["", ""]
    return [f"{mean_and_error(differences)[0]:.2f}", verdict(differences)]


def paired(row: Finished, key: str, rows: list[Finished], name: str | None) -> list[float]:
    """Score minus the named row's, of the seeds that both have; empty for the row itself."""
    other = next((other for other in rows if other.name == name), None)
    if other is None or other is row:
        return []
    return [a - b for a, b in zip(row.scores(key), other.scores(key), strict=False)]


def print_table(world: World, rows: list[Finished], console: Console) -> None:
    """Print top-1 on every held-out split."""
    keys = [f"{split}/top1" for split in world.held_out]
    table = Table("row", *keys, "minus undistilled", "minus control", "rate")
    for result in world.teacher_results():
        table.add_row(result["name"], *(f"{100 * result['metrics'][key]:.1f}" for key in keys))
    for row in rows:
        cells = [_said(*mean_and_error(row.scores(key))) for key in keys]
        for name in ("undistilled", "control"):
            differences = [paired(row, key, rows, name) for key in keys]
            cells.append(
                ", ".join(f"{sum(d) / len(d):+.1f} {verdict(d)}" for d in differences if d)
            )
        table.add_row(row.name, *cells, f"{row.rate:g}")
    console.print(table)


def _said(mean: float, error: float) -> str:
    return f"{mean:.1f}" if math.isnan(error) else f"{mean:.1f} +- {error:.1f}"


def _keys(world: World) -> list[str]:
    names = ("top1", "top5", "image_to_text_r10", "text_to_image_r10")
    return [f"{split}/{name}" for split in world.splits for name in names]


def provenance() -> str:
    """Commit and device that made the numbers."""
    # Not the results: a finished row that is written must not mark the next one.
    commit = short_commit((*CODE, "../benchmarks/*.py"))
    vectors = torch.backends.cpu.get_cpu_capability()  # they round otherwise: AVX2, AVX512, ...
    processor = f"{platform.machine()} {vectors}"
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else processor
    return f"commit {commit}, torch {torch.__version__}, {device}, one thread a run"


def append_row(path: Path, row: Mapping[str, object]) -> None:
    """Add a line to a CSV table of runs; a new table begins with the names.

    Raises:
        SystemExit: the table has other columns.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.exists()
    if not new and path.read_text().splitlines()[:1] != [",".join(row)]:
        raise SystemExit(f"{path} has other columns than {', '.join(row)}: move it away first")
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, row)
        if new:
            writer.writeheader()
        writer.writerow(row)
