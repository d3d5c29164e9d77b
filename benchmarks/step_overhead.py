"""What reading the teachers' knowledge adds to a training step.

    python benchmarks/step_overhead.py --store runs/demo/reinforced

Times the same student on the same pictures in one run, alternating: without distillation, and with
every stored teacher (affinity and feature terms). Reports the ratio of the medians. The difference
holds everything: reading the rows, the extra terms forward and backward.
"""

import argparse
import csv
import statistics
import time
from dataclasses import replace
from pathlib import Path

import torch
from ladder_table import provenance

from distill.config import RunConfig
from distill.objective import Objective
from distill.recipes.demo import demo
from distill.starting import build_from_config
from distill.trainer import fit
from reinforced_data import open_dataset

_WARM_UP = 10


def seconds_per_step(config: RunConfig, steps: int) -> float:
    """Time a short and a longer run; the difference holds no set-up and no first batch."""
    return (_seconds(config, _WARM_UP + steps) - _seconds(config, _WARM_UP)) / steps


def _seconds(config: RunConfig, steps: int) -> float:
    """Train a fresh student."""
    dataset = open_dataset(config.data.store)
    student = build_from_config(config.student, dataset)
    schedule = replace(config.schedule, num_steps=steps, warmup_steps=1)
    started = time.perf_counter()
    fit(student, dataset, replace(config, schedule=schedule, save_every=0), show=False)
    return time.perf_counter() - started


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
        student=replace(recipe.student, name=asked.student),
    )
    plain = replace(taught, objective=Objective())
    pairs = [
        (seconds_per_step(plain, asked.steps), seconds_per_step(taught, asked.steps))
        for _ in range(asked.rounds)
    ]
    row = {"student": asked.student, "batch": recipe.data.batch_size, **_summary(pairs)}
    _append(asked.results / "step-overhead.csv", row)
    print(row)


def _summary(pairs: list[tuple[float, float]]) -> dict[str, str]:
    ratios = [taught / plain for plain, taught in pairs]
    return {
        "ms_without": f"{1e3 * statistics.median(plain for plain, _ in pairs):.1f}",
        "ms_with": f"{1e3 * statistics.median(taught for _, taught in pairs):.1f}",
        "ratio_median": f"{statistics.median(ratios):.3f}",
        "ratio_min": f"{min(ratios):.3f}",
        "ratio_max": f"{max(ratios):.3f}",
        "provenance": provenance(),
    }


def _append(path: Path, row: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, row)
        if new:
            writer.writeheader()
        writer.writerow(row)


if __name__ == "__main__":
    main()
