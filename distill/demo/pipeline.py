"""The demo's stages in order. Each one is skipped when its result is there already."""

import json
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from distill.config import RunConfig
from distill.demo.reporting import build_report, term_lines
from distill.demo.settings import (
    ADDED,
    BEST,
    LEFT_OUT,
    DemoSettings,
    ablation_configs,
    student_configs,
    teacher_configs,
)
from distill.launching import Reinforcement, launch
from distill.recipes.demo import GLYPH_VIEWS, teacher_precision
from distill.report import ReportData, print_rows, write_report, write_report_json
from distill.samples import real_samples
from distill.side_by_side import finished_result, moved_aside, train_side_by_side
from reinforced_data import audit, caption, pack_glyphs
from reinforced_data.reinforce_work import ReinforceSettings
from students import export, load_student
from teachers import Teacher, load_teacher


def run_demo(settings: DemoSettings, console: Console) -> dict[str, Any]:
    """Run every stage and return what `report.json` holds."""
    torch.set_num_threads(1)
    out = settings.out
    stages = _Stages(console, _seconds_before(settings))
    with stages.timed("glyphs", "Rendering glyphs: named characters of the fonts on board"):
        sources = pack_glyphs(settings.glyphs)
    train_source = str(sources["train"])
    _start_over_if_changed(settings, console)
    with stages.timed("views", f"Drawing {settings.num_views} replayable views of every picture"):
        _reinforce(train_source, settings, (), console)
    teachers = teacher_configs(settings)
    with stages.timed("teachers", f"Training two teachers, {settings.teacher_steps} steps each"):
        _train(teachers, settings, console)
    with stages.timed("reinforce", "Writing the teachers' knowledge down"):
        _reinforce(train_source, settings, _teacher_folders(settings), console)
    with stages.timed("captions", "Saying every caption another way, by rules"):
        _caption(settings, living := _teachers(settings), console)
    with stages.timed("audit", "Checking the store against the living teachers"):
        _audit(settings, living, console)
    students, ablations = student_configs(settings), ablation_configs(settings)
    title = f"Training three students, {settings.student_steps} steps each, and the best one again"
    with stages.timed("students", f"{title} with {len(ablations)} things changed, one at a time"):
        results = _train([*students, *ablations], settings, console)
    with stages.timed("export", "Exporting to ONNX and comparing with the model"):
        samples = real_samples(settings.evaluate_on()["unseen_pairs"], 32)
        export(load_student(out / BEST), out / "export", formats=("onnx",), samples=samples)
    lines = term_lines(results[: len(students)], results[len(students) :])
    with stages.timed("report", "Collecting what the page shows"):
        data = build_report(
            settings,
            teachers=teachers,
            students=students,
            ablations=ablations,
            export=out / "export",
            lines=lines,
        )
    data = replace(data, timings=stages.seconds)
    write_report(out / "report.html", data)
    write_report_json(out / "report.json", data)
    _print_results(data, lines, settings, console)
    return json.loads((out / "report.json").read_text())


def _print_results(
    data: ReportData, lines: Sequence[str], settings: DemoSettings, console: Console
) -> None:
    """Print the table, what each ingredient did, the files and where the report is."""
    shown = [row for row in data.rows if row.name not in LEFT_OUT | ADDED]
    print_rows(shown, console, reference=data.reference)
    for line in lines:
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

    def __init__(self, console: Console, before: Mapping[str, float]) -> None:
        self.console = console
        self.seconds: dict[str, float] = {}
        # A repeated demo finds its stages done; their times are those of the run that did them.
        self._before = before

    @contextmanager
    def timed(self, name: str, title: str) -> Iterator[None]:
        """Announce a stage, run it, print its seconds."""
        self.console.print(f"[bold]{title}[/] ...", highlight=False)
        started = time.perf_counter()
        yield
        seconds = round(time.perf_counter() - started, 2)
        self.seconds[name] = max(seconds, self._before.get(name, 0.0))
        self.console.print(f"  {seconds:.1f} s", style="dim", highlight=False)


def _train(
    configs: list[RunConfig], settings: DemoSettings, console: Console
) -> list[dict[str, Any]]:
    return train_side_by_side(configs, processes=settings.processes, console=console)


def _reinforce(
    source: str, settings: DemoSettings, folders: Sequence[Path], console: Console
) -> None:
    """Write the views, and the embeddings of the teachers in `folders`."""
    work = Reinforcement(
        source=source,
        out=str(settings.store),
        teachers=[str(folder) for folder in folders],
        precision=teacher_precision(),
        settings=ReinforceSettings(num_views=settings.num_views, policy=GLYPH_VIEWS),
    )
    workers, progress = settings.processes, not console.quiet
    launch(work, "processes", workers=workers, progress=progress)


def _caption(settings: DemoSettings, teachers: Sequence[Teacher], console: Console) -> None:
    """Add one rewritten caption a picture, and the teachers' rows for it."""
    caption(
        settings.store,
        "rules",
        name="rules",
        num_captions=1,
        teachers=teachers,
        progress=not console.quiet,
    )


def _seconds_before(settings: DemoSettings) -> dict[str, float]:
    """Seconds that an earlier demo took for the stages which this one does not do anew."""
    report = settings.out / "report.json"
    seconds = json.loads(report.read_text())["timings"] if report.is_file() else {}
    students = [*student_configs(settings), *ablation_configs(settings)]
    anew: tuple[str, ...] = ()
    if any(finished_result(config) is None for config in teacher_configs(settings)):
        anew = tuple(name for name in seconds if name != "glyphs")
    elif all(finished_result(config) is None for config in students):
        anew = ("students", "export", "report")
    return {name: value for name, value in seconds.items() if name not in anew}


def _start_over_if_changed(settings: DemoSettings, console: Console) -> None:
    """Clear the way for teachers who are about to be trained anew.

    The store that the old ones wrote is removed, and what hangs on it moved aside: students name
    their teachers by folders, so that those of the old teachers would pass for finished.
    """
    configs = teacher_configs(settings)
    written = any((Path(config.out) / "result.json").is_file() for config in configs)
    if not (written and any(finished_result(config) is None for config in configs)):
        return
    shutil.rmtree(settings.store, ignore_errors=True)
    students = [Path(config.out) for config in student_configs(settings)]
    made = ("ablations", "export", "report.html", "report.json")
    for path in (*students, *(settings.out / name for name in made)):
        if path.exists():
            console.print(
                f"{path} is of other teachers; it is now {moved_aside(path)}", highlight=False
            )


def _teacher_folders(settings: DemoSettings) -> list[Path]:
    return [Path(config.out) for config in teacher_configs(settings)]


def _teachers(settings: DemoSettings) -> list[Teacher]:
    return [
        load_teacher(load_student(folder), precision=teacher_precision())
        for folder in _teacher_folders(settings)
    ]


def _audit(settings: DemoSettings, teachers: Sequence[Teacher], console: Console) -> None:
    """Fail when the store does not say what its teachers say."""
    report = audit(settings.store, teachers=teachers, replay=64, progress=False)
    if not report.ok:
        raise RuntimeError("the store does not pass its audit: " + "; ".join(report.problems))
    console.print("  rows, checksums and 64 re-embedded samples agree", style="dim")
