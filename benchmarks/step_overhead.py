"""What reading the teachers' knowledge adds to a training step.

    python benchmarks/step_overhead.py --store runs/demo/reinforced

Times the same student on the same pictures in one run, alternating: without distillation, and with
every stored teacher (affinity and feature terms). Reports the ratio of the medians. The difference
holds everything: reading the rows, the extra terms forward and backward.
"""

import argparse
import csv
import platform
import statistics
import time
from dataclasses import replace
from pathlib import Path

import torch

from distill.config import RunConfig
from distill.objective import Objective
from distill.recipes.demo import demo
from distill.starting import build_from_config
from distill.trainer import fit
from reinforced_data import open_dataset


def seconds_per_step(config: RunConfig, steps: int) -> float:
    """Train a fresh student for `steps` steps and return the mean."""
    dataset = open_dataset(config.data.store)
    torch.manual_seed(0)
    student = build_from_config(config.student, dataset)
    schedule = replace(config.schedule, num_steps=steps, warmup_steps=1)
    started = time.perf_counter()
    fit(student, dataset, replace(config, schedule=schedule, save_every=0), show=False)
    return (time.perf_counter() - started) / steps


def main() -> None:
    """Alternate, print, append one line to a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", default="runs/demo/reinforced")
    parser.add_argument("--student", default="demo-student")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    recipe = demo()
    taught = replace(
        recipe,
        data=replace(recipe.data, store=asked.store, num_workers=asked.workers),
        student=replace(recipe.student, name=asked.student, text_from=None, lock_text=False),
    )
    plain = replace(taught, objective=Objective())
    seconds_per_step(plain, 3)
    pairs = [
        (seconds_per_step(plain, asked.steps), seconds_per_step(taught, asked.steps))
        for _ in range(asked.rounds)
    ]
    ratios = [with_teachers / without for without, with_teachers in pairs]
    row = {
        "student": asked.student,
        "batch": recipe.data.batch_size,
        "ms_without": f"{1e3 * statistics.median(pair[0] for pair in pairs):.1f}",
        "ms_with": f"{1e3 * statistics.median(pair[1] for pair in pairs):.1f}",
        "ratio_median": f"{statistics.median(ratios):.3f}",
        "ratio_min": f"{min(ratios):.3f}",
        "ratio_max": f"{max(ratios):.3f}",
        "torch": torch.__version__,
        "device": f"{platform.machine()}, 1 thread",
    }
    asked.results.mkdir(parents=True, exist_ok=True)
    path = asked.results / "step-overhead.csv"
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, row)
        if new:
            writer.writeheader()
        writer.writerow(row)
    print(row)


if __name__ == "__main__":
    main()
