"""From how many rows on tiles are faster than whole matrices: `results/image-text-loss-small.csv`.

    python benchmarks/ops/crossover.py

Forward and backward of `impl="reference"` and `impl="tiled"` on the inputs of
`image_text_loss.py`, in one process and one thread, in turns; medians of processor time. What
holds on another machine is the ratio, not the milliseconds.
"""

import csv
import statistics
import time

import torch
from competitors import Case, Loss, ours
from image_text_loss import RESULTS, inputs, machine, step

from distill.ops import Embeddings

ROUNDS, ROWS = 9, (256, 512, 1024, 2048)


def seconds(loss: Loss, student: Embeddings, teachers: list[Embeddings]) -> float:
    """Processor time of one step."""
    start = time.process_time()
    step(loss, student, teachers)
    return time.process_time() - start


def measured(case: Case) -> dict[str, object]:
    """Both, in turns; the first round, in which libraries are loaded, does not count."""
    student, teachers = inputs(case, case.rows, torch.float32)
    losses: dict[str, Loss] = {}
    for impl in ("reference", "tiled"):
        loss = ours(impl)(case)
        assert not isinstance(loss, str)
        losses[impl] = loss
    taken: dict[str, list[float]] = {impl: [] for impl in losses}
    for turn in range(-1, ROUNDS):
        for impl, loss in losses.items():
            spent = seconds(loss, student, teachers)
            if turn >= 0:
                taken[impl].append(spent)
    medians = {impl: statistics.median(found) for impl, found in taken.items()}
    return {
        "loss": case.loss,
        "rows": case.rows,
        "width": case.width,
        **{f"{impl}_ms": f"{1e3 * median:.3g}" for impl, median in medians.items()},
        "tiled_over_reference": f"{medians['tiled'] / medians['reference']:.2f}",
        "rounds": ROUNDS,
        **machine(gpu=False),
    }


def main() -> None:
    """Measure every size, print, write."""
    torch.set_num_threads(1)
    lines = []
    for loss in ("hard", "2 teachers"):
        for rows in ROWS:
            case = Case(loss=loss, rows=rows, width=512, dtype="float32", device="cpu")
            lines.append(measured(case))
            print(lines[-1], flush=True)
    with (RESULTS / "image-text-loss-small.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, lines[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)


if __name__ == "__main__":
    main()
