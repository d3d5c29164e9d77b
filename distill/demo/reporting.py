"""The demo's page: that of `distill report` on its runs, and one line a changed thing."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from distill.config import RunConfig
from distill.demo.settings import ADDED, BEST, LEFT_OUT, SPLITS, DemoSettings
from distill.report import ReportData
from distill.run_report import Beside, report_of_runs

_NOTES = {name: f"without {what}" for name, what in LEFT_OUT.items()} | ADDED


def term_lines(
    students: Sequence[Mapping[str, Any]], ablations: Sequence[Mapping[str, Any]]
) -> list[str]:
    """Say in one line each what an ingredient does: the student with it minus without it."""
    best = next(result for result in students if result["name"] == BEST)
    lines = []
    for result in ablations:
        added = result["name"] in ADDED
        with_it, without = (result, best) if added else (best, result)
        gains = ", ".join(
            f"{_points(with_it, without, f'{split}/top1'):+.1f} points on {split}"
            for split in SPLITS
        )
        lines.append(f"{(ADDED if added else LEFT_OUT)[result['name']]}: {gains}")
    return lines


def _points(a: Mapping[str, Any], b: Mapping[str, Any], key: str) -> float:
    """A score of one minus that of the other, in points; never -0.0."""
    return round(100 * (a["metrics"][key] - b["metrics"][key]), 1) + 0.0


def build_report(
    settings: DemoSettings,
    *,
    teachers: Sequence[RunConfig],
    students: Sequence[RunConfig],
    ablations: Sequence[RunConfig],
    export: Path,
    lines: Sequence[str],
) -> ReportData:
    """Collect everything that the page shows, but for the stages' times."""
    data = report_of_runs(
        [Path(config.out) for config in (*students, *ablations)],
        teachers=[Path(config.out) for config in teachers],
        title="Glyphs: two teachers, one student",
        subject=settings.out / BEST,
        pictures_of=SPLITS[0],
        beside=Beside(exports=[export]),
        command="distill demo",
    )
    control = (
        "Control: the teacher's text tower without distillation. The same steps, seed and "
        "schedule for every student; one seed, so see the ladder for what is noise."
    )
    return replace(
        data,
        subtitle="Pictures of named characters, drawn on this machine from the fonts on board",
        rows=[replace(row, note=_NOTES.get(row.name, "")) for row in data.rows],
        # Ten lines a chart hide the five that are compared.
        curves=[curve for curve in data.curves if curve.name not in LEFT_OUT | ADDED],
        notes=[control, *lines, *data.notes],
    )
