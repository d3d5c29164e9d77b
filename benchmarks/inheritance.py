"""What inherited weights save: steps until a student is as good as a random one ends.

    python benchmarks/inheritance.py                    # glyphs
    python benchmarks/inheritance.py --data FOLDER      # shards in FOLDER/train and FOLDER/heldout

The ladder's small student starts from the ladder's larger teacher (7 times its image tower's
size): nothing inherited ("random"), the text tower alone, which fits as it is ("text"), and both
towers, the image tower's units chosen by each selector. Each with and without distillation, all
with the same number of steps and paired seeds. The measure is the hard contrastive loss on the
validation split, taken twenty times a run: how many steps until it is as low as that of "random",
undistilled, in the end. A row's learning rate is the one of `RATES` with the lowest such loss at
the end, first seed; the distilled rows share a choice, and so do the others.

"learned" is the order that masks found in `MASKED_STEPS` steps of the teacher, further training
that the other selectors' donor did not have.
"""

import argparse
import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from ladder_rows import distilled
from ladder_table import mean_and_error, provenance
from ladder_world import World, glyphs, own_source
from rich.console import Console
from rich.table import Table

from distill.config import RunConfig, StudentConfig
from distill.doctor import usable_cores
from distill.mask_config import MaskConfig
from distill.objective import Objective
from distill.recipes.demo import demo
from distill.run_log import read_log
from distill.side_by_side import train_side_by_side

STARTS = ("random", "text", "magnitude", "leading", "taylor", "learned", "uniform", "activation")
# Distilled students bear higher rates, here as in the ladder: the two around the best of either.
RATES = {False: (2e-3, 4e-3), True: (4e-3, 8e-3)}
MASKED_STEPS = 200
SEEDS, STEPS = 3, 200
_LOSS, _TOP1 = "validation/contrastive_loss", "validation/top1"
_BASE = "random"
_HEAD = (
    *("row", "rate", "steps_to_loss", "times_fewer", "standard_error", "loss", "loss_error"),
    *("top1", "top1_error"),
)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One start, distilled or not; the lists are in the order of the seeds.

    Attributes:
        curves: (step, loss) of every evaluation.
        top1: at the end, a fraction.
    """

    name: str
    rate: float
    curves: list[list[tuple[int, float]]]
    top1: list[float]

    def steps_to(self, goals: Sequence[float]) -> list[float]:
        """Steps until the loss is as low as each seed's goal; infinite where it never is."""
        return [
            min((step for step, loss in curve if loss <= goal), default=math.inf)
            for curve, goal in zip(self.curves, goals, strict=True)
        ]


def main() -> None:
    """Parse, build the ladder's world, train row by row, write and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", default="glyphs", help="glyphs, or a folder of shards")
    parser.add_argument("--out", type=Path, default=Path("runs/ladder"))
    parser.add_argument("--results", type=Path, help="benchmarks/results, or in --out if less")
    parser.add_argument("--starts", nargs="*", choices=STARTS, default=STARTS)
    parser.add_argument("--seeds", type=int, default=SEEDS, help="paired seeds per row")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--processes", type=int, default=max(1, int(usable_cores())))
    asked = parser.parse_args()
    torch.set_num_threads(1)
    console = Console()
    world = glyphs(asked.out) if asked.data == "glyphs" else own_source(asked.data, asked.out)
    world.prepare(asked.processes, console)
    train_side_by_side([masked_teacher(world)], processes=1, console=console)
    # Written once, at the end: a run that is stopped leaves the table before it, and its own runs.
    rows = [
        run_row(world, start, distill, asked.steps, asked.seeds, asked.processes, console)
        for start in [_BASE, *(start for start in asked.starts if start != _BASE)]
        for distill in (False, True)
    ]
    results = asked.results or _results(asked.out, asked.starts, asked.seeds, asked.steps)
    _print(write_table(results, world, rows), console)


def _results(out: Path, starts: Sequence[str], seeds: int, steps: int) -> Path:
    """Where the table goes: the committed one is of the whole effort, and no other replaces it."""
    if (set(starts), seeds, steps) == (set(STARTS), SEEDS, STEPS):
        return Path(__file__).parent / "results"
    return out / f"results-inheritance-{steps}-steps-{seeds}-seeds"


def masked_teacher(world: World) -> RunConfig:
    """The larger teacher, trained on with masks down to the student's share of its image tower."""
    recipe = demo()
    return replace(
        recipe,
        student=StudentConfig(name=str(world.teacher_folder)),
        data=replace(recipe.data, store=str(world.store)),
        objective=Objective(),
        optimizer=replace(recipe.optimizer, lr=1e-3),
        schedule=recipe.schedule.of_length(MASKED_STEPS + 1),
        masks=MaskConfig(
            keep=0.15, steps=MASKED_STEPS, warmup_steps=MASKED_STEPS // 2, towers=("image",)
        ),
        save_every=0,
        out=str(world.folder / "masked-teacher"),
    )


def config_of(world: World, start: str, distill: bool, steps: int) -> RunConfig:
    """The ladder's distilled student with another start, and undistilled if asked."""
    validation = {"validation": world.splits["validation"]}
    place = replace(world.place(), splits=validation)
    config = distilled(place, steps)
    student = config.student
    if start != "text":
        student = replace(student, text_from=None)
    if start == "learned":
        donor = str(Path(masked_teacher(world).out) / "stages" / "1-masks")
        student = replace(student, donor=donor, selector="learned")
    elif start not in ("random", "text"):
        student = replace(student, donor=place.donor, selector=start)
    objective = config.objective if distill else Objective()
    config = replace(config, student=student, objective=objective)
    return replace(config, evaluate_every=max(1, steps // 20))


def run_row(
    world: World,
    start: str,
    distill: bool,
    steps: int,
    seeds: int,
    processes: int,
    console: Console,
) -> Row:
    """Choose the rate with the first seed, then run the others."""
    name = f"{start}, distilled" if distill else start
    console.print(f"[bold]{name}[/]", highlight=False)
    folder = world.folder / "inheritance" / f"{steps}-steps" / name.replace(", ", "-")
    made = config_of(world, start, distill, steps)

    def config(rate: float, seed: int) -> RunConfig:
        out = str(folder / f"lr-{rate:g}-seed-{seed}")
        return replace(made, optimizer=replace(made.optimizer, lr=rate), seed=seed, out=out)

    swept = [config(rate, 0) for rate in RATES[distill]]
    train_side_by_side(swept, processes=processes, console=console)
    best = min(swept, key=lambda run: _curve(run, _LOSS)[-1][1])
    chosen = [best, *(config(best.optimizer.lr, seed) for seed in range(1, seeds))]
    train_side_by_side(chosen, processes=processes, console=console)
    return Row(
        name=name,
        rate=best.optimizer.lr,
        curves=[_curve(run, _LOSS) for run in chosen],
        top1=[_curve(run, _TOP1)[-1][1] for run in chosen],
    )


def _curve(run: RunConfig, key: str) -> list[tuple[int, float]]:
    records = [record for record in read_log(Path(run.out)) if key in record]
    return [(int(record["step"]), record[key]) for record in records]


def write_table(folder: Path, world: World, rows: list[Row]) -> Path:
    """Write `inheritance-NAME.csv`: a line a row; "never" counts as 0 times fewer."""
    base = next(row for row in rows if row.name == _BASE)
    goals = [curve[-1][1] for curve in base.curves]
    needed = base.steps_to(goals)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"inheritance-{world.name}.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(_HEAD)
        for row in rows:
            steps = row.steps_to(goals)
            ratios = [mine / theirs for mine, theirs in zip(needed, steps, strict=True)]
            losses = [curve[-1][1] for curve in row.curves]
            figures = [
                *mean_and_error(ratios),
                *mean_and_error(losses),
                *mean_and_error([100 * share for share in row.top1]),
            ]
            said = " ".join("never" if math.isinf(step) else str(step) for step in steps)
            writer.writerow([row.name, row.rate, said, *(f"{figure:.3f}" for figure in figures)])
        file.write(f"# {provenance()}; steps of each seed, of {base.curves[0][-1][0]}\n")
    return path


def _print(path: Path, console: Console) -> None:
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    head, *body = csv.reader(lines)
    table = Table(*head)
    for cells in body:
        table.add_row(*cells)
    console.print(table)


if __name__ == "__main__":
    main()
