"""What reading the teachers' knowledge adds to a training step.

    python benchmarks/step_overhead.py --store runs/demo/reinforced

Two equal students in one process take turns, one step each on the same pictures: one without
distillation, one from every stored teacher (affinity and feature terms). A step holds everything:
reading the rows and the picture (no loader process hides it), forward, backward, optimizer. The
ratio is of the medians of process CPU time, which other jobs on the machine disturb least; the
wall clock's stands beside it. Each run appends one line to `results/step-overhead.csv`.
"""

import argparse
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from ladder_table import append_row, provenance

from distill.config import RunConfig
from distill.objective import Objective
from distill.preparing import accelerator_for
from distill.recipes.demo import demo
from distill.starting import build_from_config
from distill.stepping import Stepper
from reinforced_data import Batch, ReinforcedDataset, open_dataset

_WARM_UP = 5


@dataclass(frozen=True, kw_only=True)
class Contender:
    """One student in training."""

    stepper: Stepper
    batches: Iterator[Batch]

    def timed_step(self, step: int) -> tuple[float, float]:
        """Load and take one step; return CPU and wall seconds."""
        cpu, wall = time.process_time(), time.perf_counter()
        self.stepper.step(next(self.batches), step)
        return time.process_time() - cpu, time.perf_counter() - wall


def contender(dataset: ReinforcedDataset, config: RunConfig, steps: int) -> Contender:
    """Build student, optimizer and an in-process loader."""
    student = build_from_config(config.student, dataset)
    known = list(dataset.teachers) if config.objective.needs_teachers else []
    dims = [teacher.embed_dim for teacher in known]
    stepper = Stepper(student, config, dims, accelerator_for(config.precision))
    batches = dataset.loader(
        preprocess=student.preprocess,
        tokenizer=student.tokenizer,
        batch_size=config.data.batch_size,
        num_steps=steps,
        start_step=0,
        seed=config.seed,
        teachers=tuple(teacher.name for teacher in known),
        views=config.data.views,
        window_shards=config.data.window_shards,
        num_workers=0,
        rank=0,
        world_size=1,
    )
    return Contender(stepper=stepper, batches=iter(batches))


def main() -> None:
    """Take turns, print, append one line to a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", default="runs/demo/reinforced")
    parser.add_argument("--student", default="demo-student")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    recipe = demo()
    taught = replace(recipe, student=replace(recipe.student, name=asked.student))
    plain = replace(taught, objective=Objective())
    dataset, total = open_dataset(asked.store), _WARM_UP + asked.steps
    pair = [contender(dataset, config, total) for config in (plain, taught)]
    times = [[one.timed_step(step) for one in pair] for step in range(1, total + 1)][_WARM_UP:]
    cpu = [statistics.median(turn[i][0] for turn in times) for i in (0, 1)]
    wall = [statistics.median(turn[i][1] for turn in times) for i in (0, 1)]
    row = {
        "store": Path(asked.store).resolve().parent.name,
        "student": asked.student,
        "batch": recipe.data.batch_size,
        "teachers": len(dataset.teachers),
        "steps": asked.steps,
        "cpu_ms_without": f"{1e3 * cpu[0]:.1f}",
        "cpu_ms_with": f"{1e3 * cpu[1]:.1f}",
        "cpu_ratio": f"{cpu[1] / cpu[0]:.3f}",
        "wall_ratio": f"{wall[1] / wall[0]:.3f}",
        "provenance": provenance(),
    }
    append_row(asked.results / "step-overhead.csv", row)
    print(row)


if __name__ == "__main__":
    main()
