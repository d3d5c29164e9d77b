"""The ladder: one small student, one change of recipe a row, paired seeds, equal steps.

    make bench                                    # glyphs
    python benchmarks/ladder.py --data FOLDER     # shards in FOLDER/train and FOLDER/heldout

Per data set two teachers are trained once, the reinforced dataset is written once, and every row
is trained from it. A row's learning rate is the best of one sweep, the same for every row, chosen
on a validation split; the held-out splits are only reported. Every run is a folder of its own
under `--out` and is not repeated; each finished row is a file of its own in `benchmarks/results/`,
and the table of a data set is made from those. A later capability adds a row to `ROWS`
(benchmarks/ladder_rows.py).
"""

import argparse
from dataclasses import replace
from pathlib import Path

import torch
from ladder_rows import ATTENDED, BASE_LR, CAPTION_ROWS, CODEC_ROWS, ROWS, SWEEP, Place
from ladder_table import Finished, print_table, read_rows, write_row, write_table
from ladder_world import World, glyphs, own_source
from rich.console import Console

from distill.config import RunConfig
from distill.doctor import usable_cores
from distill.side_by_side import train_side_by_side

QUICK_ROWS = ("undistilled", "control", "distilled")


def main() -> None:
    """Parse, build the world, train row by row, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="glyphs", help="glyphs, or a folder of shards")
    parser.add_argument("--out", type=Path, default=Path("runs/ladder"))
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--rows", nargs="*", choices=list(ROWS), help="only these rows")
    parser.add_argument("--seeds", type=int, default=3, help="paired seeds per row")
    parser.add_argument("--steps", type=int, default=400, help="student steps")
    parser.add_argument("--processes", type=int, default=None)
    parser.add_argument("--quick", action="store_true", help="three rows, one rate, one seed")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    console = Console()
    world = glyphs(asked.out) if asked.data == "glyphs" else own_source(asked.data, asked.out)
    processes = asked.processes or max(1, int(usable_cores()))
    world.prepare(processes, console)
    names = asked.rows or (QUICK_ROWS if asked.quick else list(ROWS))
    sweep = SWEEP[1:2] if asked.quick else SWEEP
    seeds = 1 if asked.quick else asked.seeds
    results = asked.out / "quick" if asked.quick else asked.results
    for name in names:
        console.print(f"[bold]{name}[/]", highlight=False)
        row = run_row(world, name, sweep, seeds, asked.steps, processes, console)
        write_row(results, world, row)
        write_table(results, world, read_rows(results, world, ROWS))
    print_table(world, read_rows(results, world, ROWS), console)


def run_row(
    world: World,
    name: str,
    sweep: tuple[float, ...],
    seeds: int,
    steps: int,
    processes: int,
    console: Console,
) -> Finished:
    """Sweep the rate with the first seed on the validation split, then run the other seeds."""
    store = world.store
    if name in CODEC_ROWS:
        store = world.store_with(CODEC_ROWS[name], processes, console)
    if name in CAPTION_ROWS:
        world.write_captions()
    if name.startswith(ATTENDED):
        store = world.store_attended(ROWS["vit"], steps, processes, console)

    def config(rate: float, seed: int) -> RunConfig:
        place = Place(
            store=str(store),
            donor=str(world.teacher_folder),
            other=world.teachers[-1].out,
            splits=world.splits,
        )
        made = ROWS[name](place, steps)
        return replace(
            made,
            # Another optimizer's rate is of another size: the sweep is of AdamW's, and scales it.
            optimizer=replace(made.optimizer, lr=rate * made.optimizer.lr / BASE_LR),
            seed=seed,
            out=str(world.folder / f"{steps}-steps" / name / f"lr-{rate:g}-seed-{seed}"),
        )

    swept = [config(rate, 0) for rate in sweep]
    results = train_side_by_side(swept, processes=processes, console=console)
    scores = [result["metrics"]["validation/top1"] for result in results]
    best = scores.index(max(scores))
    others = [config(sweep[best], seed) for seed in range(1, seeds)]
    rest = train_side_by_side(others, processes=processes, console=console) if others else []
    return Finished(name=name, rate=sweep[best], runs=[results[best], *rest])


if __name__ == "__main__":
    main()
