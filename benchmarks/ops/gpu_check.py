"""Everything that only an NVIDIA GPU can tell about `image_text_loss`, in under ten minutes.

    pip install --no-deps inf-cl==1.2.1 siglip-kernel==0.1.2      # rivals; optional
    python benchmarks/ops/gpu_check.py

1. Correctness: `tests/gpu`, in four processes at once, while a fifth compiles what step 2 times.
2. The goals for an H200, forward + backward in bfloat16, N = 65,536, each beside its rival in the
   same process: milliseconds, peak memory, pass or fail. Tilings are timed first. One line a goal
   is appended to `benchmarks/results/image-text-loss-goals.csv`.
3. In what is left of the ten minutes, the start of the whole table: `image_text_loss.py`.

Exit code 0: all passed; 1: something failed; 2: no GPU, or a goal was not measured.
"""

import argparse
import csv
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1]), str(ROOT)]

from competitors import COMPETITORS, Case  # noqa: E402
from image_text_loss import inputs  # noqa: E402
from ladder_table import provenance  # noqa: E402

from distill.ops import Embeddings  # noqa: E402

ALL_SECONDS, TEST_SECONDS = 590, 330
ROWS, RUNS = 65_536, 10


@dataclass(frozen=True, kw_only=True)
class Goal:
    """One number to reach. `factor`: how many times as fast as the rival at least."""

    loss: str
    width: int
    milliseconds: float | None
    floor: float
    rival: str
    factor: float


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Median time and peak memory beyond the inputs of one forward and backward."""

    milliseconds: float
    peak_mib: float


HARD = Goal(loss="hard", width=512, milliseconds=34, floor=22.3, rival="inf-cl", factor=4)
SIGMOID = Goal(
    loss="sigmoid", width=768, milliseconds=None, floor=25.1, rival="siglip-kernel", factor=1
)
TWO_TEACHERS = Goal(
    loss="2 teachers", width=512, milliseconds=86, floor=55.7, rival="chunk + checkpoint", factor=2
)
GOALS = (HARD, SIGMOID, TWO_TEACHERS)


def verdict(goal: Goal, ours: Measured | None, rival: Measured | None) -> str:
    """pass, fail, or not measured; a goal may fail before its rival was measured."""
    if ours is None:
        return "not measured"
    if goal.milliseconds is not None and ours.milliseconds > goal.milliseconds:
        return "fail"
    if rival is None:
        return "not measured"
    return "pass" if rival.milliseconds >= goal.factor * ours.milliseconds else "fail"


def measure(loss: Callable[[], torch.Tensor], student: Embeddings, runs: int = RUNS) -> Measured:
    """Time forward and backward after two runs that compile and warm up."""
    times = []
    for run in range(runs + 2):
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        torch.autograd.grad(loss(), [leaf for leaf in student if leaf is not None])
        end.record()
        end.synchronize()
        if run >= 2:
            times.append(start.elapsed_time(end))
    peak = (torch.cuda.max_memory_allocated() - before) / 2**20
    return Measured(milliseconds=statistics.median(times), peak_mib=peak)


def measure_goal(goal: Goal, runs: int = RUNS) -> tuple[Measured, Measured | None]:
    """Ours, then the rival if it is installed; the same rows for both."""
    case = Case(loss=goal.loss, rows=ROWS, width=goal.width, dtype="bfloat16", device="cuda")
    student, teachers = inputs(case, ROWS, torch.bfloat16)
    measured = []
    for name in ("ours, triton", goal.rival):
        loss = COMPETITORS[name](case)
        if isinstance(loss, str):
            print(f"{name}: not measured, {loss}")
            measured.append(None)
        else:
            measured.append(measure(partial(loss, student, teachers), student, runs))
    assert measured[0] is not None
    return measured[0], measured[1]


def run_tests() -> bool:
    """`tests/gpu` in four processes, and the compiling of what is timed later in a fifth."""
    groups = ("fp32", "bf16", "fp16", "not fp32 and not bf16 and not fp16")
    tests = [sys.executable, "-m", "pytest", str(ROOT / "tests" / "gpu"), "-q", "-x", "-k"]
    commands = [[*tests, group] for group in groups]
    commands.append([sys.executable, __file__, "--compile-only"])
    good, deadline = True, time.monotonic() + TEST_SECONDS
    with tempfile.TemporaryDirectory() as folder:
        running = []
        for number, command in enumerate(commands):
            with (Path(folder) / str(number)).open("w") as log:
                # Tilings of crowded timings are worth nothing: into a file that is thrown away.
                kept = {**os.environ, "CLIP_DISTILL_TILINGS": str(Path(folder) / "tilings.json")}
                streams = {"stdout": log, "stderr": subprocess.STDOUT}
                running.append(subprocess.Popen(command, cwd=ROOT, env=kept, **streams))
        for number, process in enumerate(running):
            try:
                code = process.wait(timeout=max(1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                code = f"stopped after {TEST_SECONDS} s"
            good &= code == 0
            print(f"[{code}] {' '.join(commands[number][1:])}")
            print(*(Path(folder) / str(number)).read_text().splitlines()[-15:], sep="\n")
    return good


def report(goal: Goal, mine: Measured, rival: Measured | None) -> str:
    """Print one goal, append its line to the table, return its verdict."""
    result = verdict(goal, mine, rival)
    row = {
        "loss": goal.loss,
        "rows": ROWS,
        "width": goal.width,
        "dtype": "bfloat16",
        "ms": f"{mine.milliseconds:.1f}",
        "at_most_ms": goal.milliseconds or "",
        "floor_ms": goal.floor,
        "peak_mib": f"{mine.peak_mib:.0f}",
        "rival": goal.rival,
        "rival_ms": f"{rival.milliseconds:.1f}" if rival else "not measured",
        "rival_peak_mib": f"{rival.peak_mib:.0f}" if rival else "not measured",
        "times_as_fast": f"{rival.milliseconds / mine.milliseconds:.2f}" if rival else "",
        "at_least": goal.factor,
        "verdict": result,
        "provenance": provenance(),
    }
    path = ROOT / "benchmarks" / "results" / "image-text-loss-goals.csv"
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, row)
        if new:
            writer.writeheader()
        writer.writerow(row)
    print("  ".join(f"{key}={value}" for key, value in row.items()), flush=True)
    return result


def run_benchmark(seconds: float) -> None:
    """The whole table's first rows, as many as the time allows; each is kept when it is done."""
    script = Path(__file__).parent / "image_text_loss.py"
    command = [sys.executable, str(script), "--rows", "65536", "16384", "--repeats", "1"]
    try:
        subprocess.run(command, cwd=ROOT, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        print("the ten minutes are over; run", " ".join(command[1:]), "for the rest")


def main() -> int:
    """Tests, goals, benchmark."""
    began = time.monotonic()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--compile-only", action="store_true", help="run each goal once, untimed")
    parser.add_argument("--goals-only", action="store_true", help="leave the tests out")
    asked = parser.parse_args()
    if not torch.cuda.is_available():
        print("no NVIDIA GPU here: not measured")
        return 2
    if asked.compile_only:
        for goal in GOALS:
            measure_goal(goal, runs=1)
        return 0
    good = asked.goals_only or run_tests()
    verdicts = [report(goal, *measure_goal(goal)) for goal in GOALS]
    if not asked.goals_only:
        run_benchmark(ALL_SECONDS - (time.monotonic() - began))
    if not good or "fail" in verdicts:
        return 1
    return 2 if "not measured" in verdicts else 0


if __name__ == "__main__":
    sys.exit(main())
