"""Time, memory and error of the image-text loss against its competitors, in one table.

    python benchmarks/ops/image_text_loss.py        # this machine's default
    python benchmarks/ops/image_text_loss.py --rows 8192 --losses "2 teachers" --only ours naive

Forward and backward of every competitor, each run in a process of its own, in turns: `--repeats`
rounds over all of them, medians in the table. On a GPU: milliseconds by CUDA events, median of
ten steps in the process, and the allocator's peak over what the inputs hold. On a CPU: one thread,
process CPU time of one step, and the high-water mark of the resident memory (VmHWM, reset through
/proc/self/clear_refs) over what was resident before the step. Each has first run on 512 rows, so
that libraries are loaded. Gradient error: |found - truth| / |truth| (Frobenius, image, text and
scale together) against chunk + checkpoint in float64 on the same rounded inputs, up to
`--truth-rows` rows. What cannot be measured has a row "not measured" with the reason.
Appends to `benchmarks/results/image-text-loss-DEVICE.csv`.
"""

import argparse
import csv
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import torch
import torch.nn.functional as F
from competitors import COMPETITORS, Case, Loss, chunked
from torch import Tensor

from distill.ops import Embeddings
from distill.provenance import CODE, short_commit

RESULTS = Path(__file__).resolve().parents[1] / "results"
_FIELDS = (
    *("loss", "rows", "width", "dtype", "competitor", "milliseconds", "clock", "peak_mib"),
    *("gradient_error", "runs", "reason", "device", "torch", "commit"),
)


def inputs(case: Case, rows: int, dtype: torch.dtype) -> tuple[Embeddings, list[Embeddings]]:
    """Draw related pairs, so that the softmaxes are neither flat nor one-hot."""
    generator = torch.Generator().manual_seed(0)

    def model(width: int, scale: float) -> Embeddings:
        drawn = torch.randn(2, rows, width, generator=generator)
        drawn[1] += 0.25 * drawn[0]
        unit = F.normalize(drawn, dim=2).to(case.device, dtype)
        scalars = (torch.tensor(x, device=case.device) for x in (scale, -scale / 2))
        return Embeddings(unit[0].contiguous(), unit[1].contiguous(), *scalars)

    student, teachers = model(case.width, 30.0), [model(768, 50.0) for _ in range(case.teachers)]
    if case.kind == "softmax":
        student = student._replace(logit_bias=None)
        teachers = [teacher._replace(logit_bias=None) for teacher in teachers]
    leaves = (x if x is None else x.clone().requires_grad_() for x in student)
    return Embeddings(*leaves), teachers


def step(loss: Loss, student: Embeddings, teachers: list[Embeddings]) -> list[Tensor]:
    """Forward and backward; image, text and scale gradients."""
    return list(torch.autograd.grad(loss(student, teachers), list(student[:3])))


def measure(name: str, case: Case, truth_rows: int) -> dict[str, float | str]:
    """Run one competitor here, in this process."""
    loss = COMPETITORS[name](case)
    if isinstance(loss, str):
        return {"reason": loss}
    dtype = getattr(torch, case.dtype)
    step(loss, *inputs(case, 512, dtype))
    student, teachers = inputs(case, case.rows, dtype)
    if "compiled" in name:
        step(loss, student, teachers)
    found, spent, peak = (_on_gpu if case.device == "cuda" else _on_cpu)(loss, student, teachers)
    result: dict[str, float | str] = {"milliseconds": spent, "peak_mib": peak}
    if case.rows <= truth_rows:
        result["gradient_error"] = _error(case, found, student, teachers)
    return result


def _on_cpu(
    loss: Loss, student: Embeddings, teachers: list[Embeddings]
) -> tuple[list[Tensor], float, float]:
    Path("/proc/self/clear_refs").write_text("5")
    before, start = _resident("VmRSS"), time.process_time()
    found = step(loss, student, teachers)
    return found, (time.process_time() - start) * 1e3, _resident("VmHWM") - before


def _resident(field: str) -> float:
    """Mebibytes of this process as Linux counts them."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def _on_gpu(
    loss: Loss, student: Embeddings, teachers: list[Embeddings]
) -> tuple[list[Tensor], float, float]:
    torch.cuda.reset_peak_memory_stats()
    before, times = torch.cuda.memory_allocated(), []
    found = step(loss, student, teachers)
    peak = (torch.cuda.max_memory_allocated() - before) / 2**20
    for _ in range(10):
        events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
        events[0].record()
        step(loss, student, teachers)
        events[1].record()
        torch.cuda.synchronize()
        times.append(events[0].elapsed_time(events[1]))
    return found, statistics.median(times), peak


def _error(
    case: Case, found: list[Tensor], student: Embeddings, teachers: list[Embeddings]
) -> float:
    doubles = [
        Embeddings(*(x if x is None else x.detach().double() for x in model))
        for model in (student, *teachers)
    ]
    exact = Embeddings(*(x if x is None else x.requires_grad_() for x in doubles[0]))
    loss = chunked(case)
    assert not isinstance(loss, str)
    truth = step(loss, exact, doubles[1:])
    off = sum((a.double() - b).square().sum() for a, b in zip(found, truth, strict=True))
    return (off / sum(b.square().sum() for b in truth)).sqrt().item()


def in_a_process(name: str, case: Case, truth_rows: int) -> dict[str, float | str]:
    """Measure in a fresh process; a crash is a reason, too."""
    job = json.dumps({"name": name, "case": asdict(case), "truth_rows": truth_rows})
    threads = {} if case.device == "cuda" else {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, __file__, "--job", job],
        capture_output=True,
        text=True,
        env={**os.environ, **threads},
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        return {"reason": lines[-1][:120]}
    return json.loads(done.stdout.splitlines()[-1])


def summary(case: Case, name: str, runs: list[dict[str, float | str]]) -> dict[str, object]:
    """One line of the table."""
    gpu = case.device == "cuda"
    line: dict[str, object] = {
        **{k: v for k, v in asdict(case).items() if k != "device"},
        "competitor": name,
        "clock": "GPU events" if gpu else "CPU time, 1 thread",
        "runs": len(runs),
        **machine(gpu),
    }
    if "reason" in runs[0]:
        return {**line, "milliseconds": "not measured", "reason": runs[0]["reason"]}
    for key, digits in (("milliseconds", ".4g"), ("peak_mib", ".0f"), ("gradient_error", ".1e")):
        values = [float(run[key]) for run in runs if key in run]
        line[key] = format(statistics.median(values), digits) if values else ""
    return line


def machine(gpu: bool) -> dict[str, str]:
    """What a line of a table says of where it was measured."""
    return {
        "device": torch.cuda.get_device_name() if gpu else _processor(),
        "torch": torch.__version__,
        "commit": short_commit((*CODE, "../benchmarks/*.py")),
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def main() -> None:
    """Parse, measure in turns, print and append."""
    gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    sizes = [1 << k for k in range(12, 19)] if gpu else [4096, 8192]
    parser.add_argument("--rows", type=int, nargs="+", default=sizes)
    parser.add_argument("--widths", type=int, nargs="+", default=[512, 768] if gpu else [512])
    losses = ["hard", "sigmoid", "1 teacher", "2 teachers"]
    parser.add_argument("--losses", nargs="+", default=losses, choices=losses)
    parser.add_argument("--only", nargs="+", default=[""], help="competitors with this in the name")
    parser.add_argument("--dtype", default="bfloat16" if gpu else "float32")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--truth-rows", type=int, default=16384 if gpu else 4096)
    parser.add_argument("--job", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.job:
        job = json.loads(arguments.job)
        print(json.dumps(measure(job["name"], Case(**job["case"]), job["truth_rows"])))
        return
    table = RESULTS / f"image-text-loss-{'gpu' if gpu else 'cpu'}.csv"
    names = [n for n in COMPETITORS if any(part in n for part in arguments.only)]
    for loss, width, rows in (
        (a, b, c) for a in arguments.losses for b in arguments.widths for c in arguments.rows
    ):
        device = "cuda" if gpu else "cpu"
        case = Case(loss=loss, rows=rows, width=width, dtype=arguments.dtype, device=device)
        runs: dict[str, list] = {name: [] for name in names}
        for turn in range(arguments.repeats):
            for name in names:
                if not turn or "reason" not in runs[name][0]:
                    truth = arguments.truth_rows if not turn else 0
                    runs[name].append(in_a_process(name, case, truth))
        _append(table, [summary(case, name, found) for name, found in runs.items()])


def _append(table: Path, lines: list[dict[str, object]]) -> None:
    new = not table.exists()
    with table.open("a", newline="") as stream:
        writer = csv.DictWriter(stream, _FIELDS, restval="", lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerows(lines)
    for line in lines:
        shown = ("loss", "rows", "width", "competitor", "milliseconds", "peak_mib", "reason")
        print("  ".join(str(line.get(key, "")) for key in shown), flush=True)


if __name__ == "__main__":
    main()
