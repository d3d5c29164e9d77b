"""Do views cost more when two worker processes make them at once?

    python benchmarks/view_workers.py

Takes the contenders and JPEGs of views.py. One process, then two at the same time, each do all the
pictures; they take turns over rounds. `cpu_kept` is a worker's images per CPU second beside another
over that alone, and 1 where they share nothing that either waits for or evicts; `wall_gain` is the
images per second of two over those of one, and says something only where two cores are free (see
`load`). Writes `results/view-workers.csv`, medians over rounds.
"""

import argparse
import csv
import multiprocessing
import os
import statistics
import time
from pathlib import Path
from typing import NamedTuple

import torch
from ladder_table import provenance
from views import SETTINGS, Setting, contenders, jpeg

_NAMES = ("ours, view", "ours, 10 views", "torchvision v2")
# 512 pixels down to 224 and the least to do, 256 to 256.
_SETTINGS = (SETTINGS[4], SETTINGS[3])


class Made(NamedTuple):
    """Images per CPU second of a worker, and per second of all together."""

    per_cpu: float
    per_wall: float


def together(setting: Setting, name: str, pictures: list[bytes], workers: int) -> Made:
    """Have so many processes do all the pictures at once."""
    context = multiprocessing.get_context("fork")
    ready, answers = context.Barrier(workers), context.SimpleQueue()

    def work() -> None:
        torch.set_num_threads(1)
        contender = contenders(setting)[name]
        contender(pictures[0], 0)
        ready.wait()
        cpu, wall = time.process_time(), time.perf_counter()
        made = sum(contender(data, turn) for turn, data in enumerate(pictures))
        answers.put((made / (time.process_time() - cpu), made / (time.perf_counter() - wall)))

    processes = [context.Process(target=work) for _ in range(workers)]
    for process in processes:
        process.start()
    found = [answers.get() for _ in processes]
    for process in processes:
        process.join()
    return Made(statistics.mean(cpu for cpu, _ in found), sum(wall for _, wall in found))


def row(setting: Setting, name: str, pictures: list[bytes], rounds: int) -> dict[str, object]:
    """Measure one contender: a line of the table."""
    one, two = [], []
    for _ in range(rounds):
        one.append(together(setting, name, pictures, 1))
        two.append(together(setting, name, pictures, 2))
    cpu = [statistics.median(made.per_cpu for made in found) for found in (one, two)]
    wall = [statistics.median(made.per_wall for made in found) for found in (one, two)]
    return {
        "jpeg_pixels": setting.side,
        "output": setting.size,
        "crop_area": f"{setting.crop[0]:g} to {setting.crop[1]:g}",
        "contender": name,
        "images_per_cpu_second": round(cpu[0]),
        "beside_another": round(cpu[1]),
        "cpu_kept": f"{cpu[1] / cpu[0]:.2f}",
        "wall_gain": f"{wall[1] / wall[0]:.2f}",
        "rounds": rounds,
        "load": f"{os.getloadavg()[0]:.1f} on {os.cpu_count()} cores",
        "provenance": provenance(),
    }


def main() -> None:
    """Measure, print, write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--pictures", type=int, default=120)
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    found = []
    for setting in _SETTINGS:
        pictures = [jpeg(number % 12, setting.side) for number in range(asked.pictures)]
        for name in _NAMES:
            found.append(row(setting, name, pictures, asked.rounds))
            print(found[-1], flush=True)
    with (asked.results / "view-workers.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, found[0])
        writer.writeheader()
        writer.writerows(found)


if __name__ == "__main__":
    main()
