"""What a longer run brings, with and without teachers: runs for `distill fit-scaling`.

    python benchmarks/scaling.py --data FOLDER --out FOLDER

with the folders that `ladder.py` was given; what it has trained stays. The ladder's rows
"undistilled" and "distilled", each at its committed rate, are trained for `STEPS` steps. x is work,
in 1e9 multiplications of the student, as `ladder_work.py` counts them, without the teachers': what
they do to write the store is a constant, and no power law has one. So "undistilled_needs" is to be
held against (steps + teaching) / steps. Runs go to `results/scaling-NAME.csv`, and what

    distill fit-scaling results/scaling-NAME.csv --x gmacs --y top1 --by recipe --at ...

makes of them to `results/scaling-NAME-laws.csv`, at the work of the longest run, twice and four
times as much. The rate was chosen at 400 steps: another length might do better with another one.
"""

import argparse
import csv
from pathlib import Path
from typing import Any

import ladder
import torch
from ladder_table import committed_rows, provenance
from ladder_work import step_work
from ladder_world import World, own_source
from rich.console import Console

from distill.cli import scaling as fit_scaling
from distill.doctor import usable_cores
from distill.side_by_side import train_side_by_side

UNDISTILLED = "undistilled"
RESULTS = Path(__file__).parent / "results"
ROWS = (UNDISTILLED, "distilled")
STEPS = (25, 50, 100, 200, 400)
Row = dict[str, Any]


def main() -> None:
    """Train, write the runs, fit, write the laws."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", required=True, help="the ladder's folder of shards")
    parser.add_argument("--out", type=Path, default=Path("runs/ladder"), help="the ladder's")
    parser.add_argument("--steps", nargs="+", type=int, default=STEPS)
    parser.add_argument("--seeds", type=int, default=ladder.SEEDS)
    parser.add_argument("--processes", type=int, default=max(1, int(usable_cores())))
    parser.add_argument("--results", type=Path, help="benchmarks/results, or in --out if shorter")
    asked = parser.parse_args()
    whole = (tuple(asked.steps), asked.seeds) == (STEPS, ladder.SEEDS)
    results = asked.results or (RESULTS if whole else asked.out / "results-scaling")
    results.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    made_by, console = provenance(), Console()
    world = own_source(asked.data, asked.out)
    world.prepare(asked.processes, console)
    rows = trained(world, asked.steps, asked.seeds, asked.processes, console)
    runs = results / f"scaling-{world.name}.csv"
    _write(runs, rows, made_by)
    last = max(asked.steps) * step_work(world) / 1e3
    laws = fitted(runs, [last, 2 * last, 4 * last], console)
    _write(results / f"scaling-{world.name}-laws.csv", laws, made_by)


def trained(
    world: World, steps: list[int], seeds: int, processes: int, console: Console
) -> list[Row]:
    """Train every run, the longest first, and list them with what they cost."""
    rates = {row.name: row.rate for row in committed_rows(RESULTS, world, ROWS)}
    plan = [
        (row, length, seed)
        for length in sorted(steps, reverse=True)
        for row in ROWS
        for seed in range(seeds)
    ]
    place = world.place()
    configs = []
    for row, length, seed in plan:
        effort = ladder.Effort(steps=length, seeds=seeds, sweep=(), processes=processes)
        configs.append(ladder.config_of(place, row, effort, rates[row], seed))
    results = train_side_by_side(configs, processes=processes, console=console)
    work = step_work(world) / 1e3
    rows = []
    for (row, length, seed), result in zip(plan, results, strict=True):
        top1 = f"{100 * result['metrics']['heldout/top1']:.2f}"
        told = {"gmacs": f"{work * length:.1f}", "steps": length, "seed": seed, "top1": top1}
        rows.append({"recipe": row, **told})
    return sorted(rows, key=lambda row: (row["recipe"], row["steps"], row["seed"]))


def fitted(runs: Path, at: list[float], console: Console, draws: int = 300) -> list[Row]:
    """Run `distill fit-scaling` on the table; a line a recipe and x."""
    asked = [str(runs), "--x", "gmacs", "--y", "top1", "--by", "recipe"]
    asked += ["--draws", str(draws)]
    values = fit_scaling.run([*asked, "--at", *(f"{x:.6g}" for x in at)], console).values
    compared = {
        (pair["first"], f"{pair['x']:g}"): pair
        for pair in values["compared"]
        if pair["second"] == UNDISTILLED  # the last of the names
    }
    rows = []
    for recipe, law in values["laws"].items():
        for x, error in law["errors"].items():
            row = {"recipe": recipe, "runs": law["runs"], "at_gmacs": x}
            for name in ("floor", "exponent"):
                row |= _interval(name, (law[name], *law[f"{name}_interval"]))
            row |= _interval("error", error)
            if pair := compared.get((recipe, x)):
                ends = (pair["difference"], pair["low"], pair["high"])
                row |= _interval(f"minus_{UNDISTILLED}", ends)
                row["verdict"] = pair["verdict"]
                times = pair["equal_x"]  # None is beyond what was measured
                row[f"{UNDISTILLED}_needs"] = "" if times is None else f"{times:.2f}"
            rows.append(row)
    return rows


def _interval(name: str, values: tuple[float, float, float]) -> Row:
    cells = [f"{value:.3g}" for value in values]
    return dict(zip((name, f"{name}_low", f"{name}_high"), cells, strict=True))


def _write(path: Path, rows: list[Row], made_by: str) -> None:
    columns = [*max(rows, key=len), "provenance"]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows({**row, "provenance": made_by} for row in rows)


if __name__ == "__main__":
    main()
