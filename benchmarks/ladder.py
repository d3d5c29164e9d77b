"""The ladder: one small student, one change of recipe a row, paired seeds, equal steps.

    make ladder                                   # glyphs, 72 steps a training
    make ladder DATA=FOLDER                       # shards in FOLDER/train and FOLDER/heldout
    make ladder DATA=FOLDER STEPS=400             # what most of the committed tables are
    python benchmarks/ladder.py --rows distilled sigmoid --data FOLDER

Per data set two teachers are trained once, the reinforced dataset is written once, and every row
is trained from it. Learning rates are chosen on a validation split, with the first seed; the
held-out splits are only reported. "undistilled", "control", "distilled", a ViT and the rows whose
optimizer or learning weights are others have a sweep of their own, and the other rows take the
rate of the one they vary (`rate_from`). Rows named "-same-work" train as many steps more as pay for
what the teachers did, or as many fewer as a policy of tokens saves; the others all train the same
number, but for "-quarter" and "-long". Every
run is a folder of its own under `--out` and is not repeated; each finished row is a file of its
own in `benchmarks/results/`, and the table of a data set is made from those. A later capability
adds a row (benchmarks/ladder_rows.py, ladder_tokens.py).
"""

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from ladder_against import rate_from
from ladder_rows import (
    BASE_LR,
    CAPTION_ROWS,
    CODEC_ROWS,
    CROPPED,
    CROPPED_MISREPLAYED,
    MANY_VIEWS,
    MISREPLAYED,
    ROWS,
    SWEEP,
    UNDISTILLED_CAPTIONS,
    Place,
)
from ladder_table import Finished, print_table, read_rows, write_row, write_table
from ladder_tokens import ATTENDED, TOKEN_ROWS, VIT
from ladder_work import teaching_steps
from ladder_world import World, glyphs, own_source
from rich.console import Console

from distill.config import RunConfig
from distill.doctor import usable_cores
from distill.side_by_side import train_side_by_side

# A seed's runs read the same pictures: of so many rows each picture is decoded once.
ROWS_A_PASS = 4
SEEDS, STEPS = 3, 400
# Of a whole ladder in two and a half hours on two cores (docs/results.md).
SHORT_STEPS = 72
QUICK_ROWS = ("undistilled", "control", "distilled")
ALL_ROWS = ROWS | TOKEN_ROWS


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How much is trained for a row."""

    steps: int
    seeds: int
    sweep: tuple[float, ...]
    processes: int


def main() -> None:
    """Parse, build the world, train row by row, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="glyphs", help="glyphs, or a folder of shards")
    parser.add_argument("--out", type=Path, default=Path("runs/ladder"))
    parser.add_argument("--results", type=Path, help="benchmarks/results, or in --out if shorter")
    parser.add_argument("--rows", nargs="*", choices=list(ALL_ROWS), help="only these rows")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="paired seeds per row")
    parser.add_argument("--steps", type=int, default=STEPS, help="student steps")
    parser.add_argument("--processes", type=int, default=max(1, int(usable_cores())))
    parser.add_argument("--quick", action="store_true", help="three rows, one rate, one seed")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    console = Console()
    if asked.data == "glyphs":
        world = glyphs(asked.out)
    else:
        world = own_source(asked.data, asked.out, quick=asked.quick)
    world.prepare(asked.processes, console)
    effort = Effort(
        steps=asked.steps,
        seeds=1 if asked.quick else asked.seeds,
        sweep=SWEEP[1:2] if asked.quick else SWEEP,
        processes=asked.processes,
    )
    teaching = teaching_steps(world)
    world = _of_length(world, effort.steps)
    results = asked.results or _results(asked.out, effort)
    names = asked.rows or (QUICK_ROWS if asked.quick else in_order())
    # So many rows at once that no process idles at the end of one row's seeds.
    at_once = ROWS_A_PASS * asked.processes
    for first in range(0, len(names), at_once):
        together = names[first : first + at_once]
        console.print(f"[bold]{', '.join(together)}[/]", highlight=False)
        for row in run_rows(world, together, effort, teaching, console):
            write_row(results, world, row)
        write_table(results, world, read_rows(results, world, ALL_ROWS))
    print_table(world, read_rows(results, world, ALL_ROWS), console)


def _results(out: Path, effort: Effort) -> Path:
    """Where rows go: the committed ones are of the whole effort, and no other replaces them."""
    whole = (effort.seeds, effort.sweep) == (SEEDS, SWEEP)
    if whole and effort.steps in (STEPS, SHORT_STEPS):
        return Path(__file__).parent / "results"
    return out / f"results-{effort.seeds}-seeds"


def _of_length(world: World, steps: int) -> World:
    """Name another number of steps than the usual: its rows are a table of their own."""
    return world if steps == STEPS else replace(world, name=f"{world.name}-{steps}-steps")


def in_order() -> list[str]:
    """List every row, those that others take their rate from first."""
    return sorted(ALL_ROWS, key=lambda name: rate_from(name) != name)


def run_rows(
    world: World, names: Sequence[str], effort: Effort, teaching: float, console: Console
) -> list[Finished]:
    """Train each row at its rate, or at the best rate of the row it varies; all side by side."""
    swept = _best_rates(world, dict.fromkeys(map(rate_from, names)), effort, teaching, console)
    rates = [swept[rate_from(name)] for name in names]
    runs = []
    for name, rate in zip(names, rates, strict=True):
        place = world.place(_store(world, name, effort, console), teaching)
        runs += [config_of(place, name, effort, rate, seed) for seed in range(effort.seeds)]
    results = iter(_trained(runs, ROWS_A_PASS, effort, console))
    return [
        Finished(name=name, rate=rate, runs=list(islice(results, effort.seeds)))
        for name, rate in zip(names, rates, strict=True)
    ]


def _best_rates(
    world: World, bases: Iterable[str], effort: Effort, teaching: float, console: Console
) -> dict[str, float]:
    """Sweep each of these rows, all side by side."""
    runs: dict[str, list[RunConfig]] = {}
    for base in bases:
        place = world.place(_store(world, base, effort, console), teaching)
        runs[base] = [config_of(place, base, effort, rate, 0) for rate in effort.sweep]
    swept = [run for each in runs.values() for run in each]
    sharing = min(ROWS_A_PASS, -(-len(swept) // effort.processes))
    found = iter(_trained(swept, sharing, effort, console))
    rates = {}
    for base in runs:
        scores = [next(found)["metrics"]["validation/top1"] for _ in effort.sweep]
        rates[base] = effort.sweep[scores.index(max(scores))]
    return rates


def _trained(
    runs: Sequence[RunConfig], sharing: int, effort: Effort, console: Console
) -> list[dict[str, Any]]:
    return train_side_by_side(runs, processes=effort.processes, console=console, sharing=sharing)


def config_of(place: Place, name: str, effort: Effort, rate: float, seed: int) -> RunConfig:
    """Configure one run of a row, and name its folder."""
    made = ALL_ROWS[name](place, effort.steps)
    # Another optimizer's rate is of another size: the sweep is of AdamW's, and scales it.
    optimizer = made.optimizer
    text_lr = None if optimizer.text_lr is None else rate * optimizer.text_lr / BASE_LR
    return replace(
        made,
        optimizer=replace(optimizer, lr=rate * optimizer.lr / BASE_LR, text_lr=text_lr),
        seed=seed,
        out=str(place.runs / f"{effort.steps}-steps" / name / f"lr-{rate:g}-seed-{seed}"),
    )


def _store(world: World, name: str, effort: Effort, console: Console) -> Path:
    """Return what the row reads; written first where it is not the usual store."""
    if name in CODEC_ROWS:
        return world.store_with(CODEC_ROWS[name], effort.processes, console)
    if name in (MISREPLAYED, CROPPED_MISREPLAYED):
        cropped = name == CROPPED_MISREPLAYED
        return world.store_misreplayed(effort.processes, console, cropped=cropped)
    if name == CROPPED:
        return world.store_of_cropped_views(effort.processes, console)
    if name == MANY_VIEWS:
        return world.store_of_many_views(effort.processes, console)
    if name.startswith(ATTENDED):
        return world.store_attended(ALL_ROWS[VIT], effort.steps, effort.processes, console)
    if name in (*CAPTION_ROWS, UNDISTILLED_CAPTIONS):
        world.write_captions()
    return world.store


if __name__ == "__main__":
    main()
