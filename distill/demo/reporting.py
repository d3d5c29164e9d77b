"""The demo's report: rows, curves, pictures, and one line a term."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from distill.demo.settings import BEST, SPLITS, DemoSettings
from distill.report import ExportedFile, ReportData, Row, Step
from distill.retrieval_cases import retrieval_cases
from distill.run_curves import curves
from distill.run_report import environment, scores
from students import Student

_TERMS = {
    "without-affinity": "affinity mimicking",
    "without-feature": "feature mimicking",
    "without-scale-calibration": "calibrating the teachers' scale",
    "without-teacher-text": "taking over the teacher's text tower",
}


def term_lines(
    students: Sequence[Mapping[str, Any]], ablations: Sequence[Mapping[str, Any]]
) -> list[str]:
    """Say in one line each what an ingredient did: the student with it minus without it."""
    best = next(result for result in students if result["name"] == BEST)
    lines = []
    for result in ablations:
        gains = ", ".join(
            f"{100 * (best['metrics'][key] - result['metrics'][key]):+.1f} points on {split}"
            for split in SPLITS
            if (key := f"{split}/top1")
        )
        lines.append(f"{_TERMS[result['name']]}: {gains}")
    return lines


def build_report(
    settings: DemoSettings,
    *,
    teachers: Sequence[Mapping[str, Any]],
    students: Sequence[Mapping[str, Any]],
    ablations: Sequence[Mapping[str, Any]],
    exports: Sequence[Mapping[str, Any]],
    student: Student,
    timings: Mapping[str, float],
    skipped: Mapping[str, int],
) -> ReportData:
    """Collect everything that the page shows."""
    rows = [_row(result, "teacher") for result in teachers]
    rows += [_row(result, "student") for result in students]
    rows += [_row(result, "student", prefix="ablations/") for result in ablations]
    drawn = [row for row in rows if not row.name.startswith("ablations/")]
    return ReportData(
        title="Glyphs: two teachers, one student",
        subtitle="Pictures of named characters, drawn on this machine from the fonts on board",
        command="distill demo",
        reference=str(teachers[0]["name"]),
        subject=BEST,
        rows=rows,
        exports=[_export(row) for row in exports],
        curves=[curve for row in drawn for curve in curves(settings.out / row.name, row)],
        retrieval=retrieval_cases(student, settings.evaluate_on()["unseen_pairs"]),
        lineage=_lineage(settings),
        timings=timings,
        notes=[
            "Control: the teacher's text tower without distillation. The same steps, seed and "
            "schedule for every student; one seed, so see the ladder for what is noise.",
            *term_lines(students, ablations),
        ],
        environment=environment(),
        skipped=skipped,
    )


def _row(result: Mapping[str, Any], role: Any, prefix: str = "") -> Row:
    name = str(result["name"])
    return Row(
        name=prefix + name,
        role=role,
        distilled=role == "student" and name not in ("student-undistilled", "student-control"),
        control=name == "student-control",
        image_params=result["image_params"],
        text_params=result["text_params"],
        steps=result["steps"],
        metrics=scores(result["metrics"]),
        retention=result["retention"],
        note=_TERMS.get(name, "") and f"without {_TERMS[name]}",
    )


def _export(row: Mapping[str, Any]) -> ExportedFile:
    return ExportedFile(
        format=row["format"],
        tower=row["tower"],
        path=str(Path("export") / row["format"] / Path(row["path"]).name),
        bytes=row["bytes"],
        relative_error=row["relative_error"],
        latency_ms=row["latency_ms"],
    )


def _lineage(settings: DemoSettings) -> list[Step]:
    return [
        Step(what="source", which=str(settings.glyphs / "train")),
        Step(what="store", which=str(settings.store)),
        Step(what="teachers", which="teacher-a, teacher-b"),
        Step(what="student", which=BEST),
        Step(what="files", which="export/"),
    ]
