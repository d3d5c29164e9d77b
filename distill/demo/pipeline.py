"""The demo's stages in order. Each one is skipped when its result is there already."""

import json
import multiprocessing
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from distill.config import RunConfig
from distill.demo.reporting import build_report
from distill.demo.settings import (
    BEST,
    DemoSettings,
    ablation_configs,
    student_configs,
    teacher_configs,
)
from distill.recipes.demo import GLYPH_VIEWS
from distill.report import ReportData, print_rows, write_report, write_report_json
from distill.samples import real_samples
from distill.side_by_side import train_side_by_side
from reinforced_data import audit, pack_glyphs, reinforce
from students import export, load_student
from teachers import load_teacher


def run_demo(settings: DemoSettings, console: Console) -> dict[str, Any]:
    """Run every stage and return what `report.json` holds."""
    torch.set_num_threads(1)
    stages = _Stages(console)
    out = settings.out
    with stages.timed("glyphs", "Rendering glyphs: named characters of the fonts on board"):
        sources = pack_glyphs(settings.glyphs)
    train_source = str(sources["train"])
    with stages.timed("views", f"Drawing {settings.num_views} replayable views of every picture"):
        _write_columns(train_source, settings, None)
    with stages.timed("teachers", f"Training two teachers, {settings.teacher_steps} steps each"):
        teachers = _train(teacher_configs(settings), settings, console)
    with stages.timed("reinforce", "Writing the teachers' knowledge down"):
        skipped = _reinforce(train_source, settings)
    with stages.timed("audit", "Checking the store against the living teachers"):
        _audit(settings, console)
    title = f"Training three students, {settings.student_steps} steps each, and four ablations"
    with stages.timed("students", title):
        compared = student_configs(settings)
        results = _train([*compared, *ablation_configs(settings)], settings, console)
        students, ablations = results[: len(compared)], results[len(compared) :]
    student = load_student(out / BEST)
    with stages.timed("export", "Exporting to ONNX and comparing with the model"):
        samples = real_samples(settings.evaluate_on()["unseen_pairs"], 32)
        exported = export(student, out / "export", formats=("onnx",), samples=samples)
    data = build_report(
        settings,
        teachers=teachers,
        students=students,
        ablations=ablations,
        exports=exported.rows,
        student=student,
        timings=stages.seconds,
        skipped=skipped,
    )
    write_report(out / "report.html", data)
    write_report_json(out / "report.json", data)
    _print_results(data, settings, console)
    return json.loads((out / "report.json").read_text())


def _print_results(data: ReportData, settings: DemoSettings, console: Console) -> None:
    """Print the table, what each ingredient did, the files and where the report is."""
    print_rows([row for row in data.rows if not row.name.startswith("ablations/")], console)
    for line in data.notes[1:]:
        console.print(f"  {line}", highlight=False)
    for row in data.exports:
        console.print(
            f"  {row.format} {row.tower} tower: {row.bytes / 1000:,.0f} kB, "
            f"{row.latency_ms:.2f} ms, relative error {row.relative_error:.1e}",
            highlight=False,
        )
    console.print(f"Done in {sum(data.timings.values()) / 60:.1f} minutes. Open", end=" ")
    console.print(str(settings.out / "report.html"), style="bold", soft_wrap=True)


class _Stages:
    """Says what is going on and keeps the time."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.seconds: dict[str, float] = {}

    @contextmanager
    def timed(self, name: str, title: str) -> Iterator[None]:
        """Announce a stage, run it, print its seconds."""
        self.console.print(f"[bold]{title}[/] ...", highlight=False)
        started = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - started, 2)
        self.console.print(f"  {self.seconds[name]:.1f} s", style="dim", highlight=False)


def _train(
    configs: list[RunConfig], settings: DemoSettings, console: Console
) -> list[dict[str, Any]]:
    return train_side_by_side(configs, processes=settings.processes, console=console)


def _write_columns(source: str, settings: DemoSettings, teacher: Path | None) -> dict[str, int]:
    """Write the views, and one teacher's embeddings of them; return skips by reason."""
    torch.set_num_threads(1)
    report = reinforce(
        source,
        settings.store,
        teachers=[load_teacher(load_student(teacher))] if teacher else (),
        num_views=settings.num_views,
        policy=GLYPH_VIEWS,
        progress=False,
    )
    return report.skipped


def _reinforce(source: str, settings: DemoSettings) -> dict[str, int]:
    """Both teachers at once, each in a process: columns are independent of each other."""
    folders = [Path(config.out) for config in teacher_configs(settings)]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=settings.processes, mp_context=context) as pool:
        jobs = [pool.submit(_write_columns, source, settings, folder) for folder in folders]
        return {reason: n for job in jobs for reason, n in job.result().items()}


def _audit(settings: DemoSettings, console: Console) -> None:
    """Fail when the store does not say what its teachers say."""
    folders = [Path(config.out) for config in teacher_configs(settings)]
    teachers = [load_teacher(load_student(folder)) for folder in folders]
    report = audit(settings.store, teachers=teachers, samples=64)
    if not report.ok:
        raise RuntimeError("the store does not pass its audit: " + "; ".join(report.problems))
    console.print("  rows, checksums and 64 re-embedded samples agree", style="dim")
