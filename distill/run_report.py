"""A report of any runs: what each one's folder says, and what the best student does with pictures.

Roles come from the configurations (run_roles.py): a run is a teacher where the caller says so,
distilled where its objective has a term of the teachers, a control where it was given a part of one
alone: weights, or a locked tower.
"""

import json
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from distill.evaluation.evaluator import NOT_SCORES, retention
from distill.report import ReportData, Row, find_ladders, read_ladder
from distill.report.data import Role
from distill.run_curves import curves
from distill.run_data import HealthWanted, health_sections
from distill.run_evaluations import Evaluated, more_scores, read_evaluations
from distill.run_exports import Exported, read_export, read_profile, together
from distill.run_gaps import what_is_missing
from distill.run_origins import origins
from distill.run_pictures import search
from distill.run_roles import is_given, is_taught


@dataclass(frozen=True, kw_only=True)
class Beside:
    """What a report shows besides runs.

    Attributes:
        ladders: tables of benchmarks/ladder.py, or folders with such.
        exports: folders that `distill export` wrote.
        profiles: files that `distill profile --out` wrote, or `--json` printed.
        evaluations: files that `distill evaluate --out` wrote.
        health: whether the store is read for the data-health sections; auto: up to 20 GB.
    """

    ladders: Sequence[Path] = ()
    exports: Sequence[Path] = ()
    profiles: Sequence[Path] = ()
    evaluations: Sequence[Path] = ()
    health: HealthWanted = "auto"


def report_of_runs(
    runs: Sequence[Path],
    *,
    teachers: Sequence[Path] = (),
    title: str = "",
    subject: Path | None = None,
    pictures_of: str | None = None,
    beside: Beside | None = None,
    command: str = "",
    step: Callable[[str], None] = lambda what: None,
) -> ReportData:
    """Collect what the page shows.

    Args:
        runs: folders of finished trainings, the students.
        teachers: folders of finished trainings that are shown as teachers; retention is relative to
            the first, or to the first model of `beside.evaluations` that is none of the runs.
        title: of the page; the runs' common folder when empty.
        subject: the run whose pictures, data and origin are shown; when None the best distilled
            one, by the first score.
        pictures_of: split whose pictures are searched; the last one that the first run was
            evaluated on when None.
        beside: tables, exports, profiles and evaluations.
        command: what was typed, for the page.
        step: told what comes next.

    Raises:
        ValueError: a folder holds no finished run, or two have one name; or a file beside them is
            not what it should be.
    """
    beside = beside or Beside()
    results = {folder: _result(folder) for folder in [*teachers, *runs]}
    names = _names([*teachers, *runs])
    said = read_evaluations(beside.evaluations, names)
    rows = _rows(teachers, runs, names, results, said)
    by_name = {row.name: row for row in rows}
    best = subject or max(runs, key=lambda folder: _order(_config(folder), results[folder]))
    data = ReportData(
        title=title or f"Runs in {_above(runs)}",
        command=command,
        reference=rows[0].name if rows[0].role == "teacher" else "",
        subject=names[best] if any(row.distilled for row in rows) else "",
        rows=rows,
        curves=[curve for f in results for curve in curves(f, by_name[names[f]])],
        beyond=[b for each in said for b in each.beyond(by_name[each.name].metrics)],
        notes=[f"{names[f]}: {text}" for f in results for text in results[f].get("warnings", ())],
        timings={names[f]: results[f]["seconds"] for f in results if "seconds" in results[f]},
        environment=environment(),
        skipped=_refused([results[folder] for folder in runs]),
    )
    data, exports = _with_tables(data, beside, names)
    data, reasons = _with_subject(data, best, pictures_of, step)
    step("Hashing what it comes from")
    own = [export for export in exports if export.run in (best, None)]
    data = replace(data, lineage=origins(best, own))
    step("Looking at the data")
    health, why_not = health_sections(_config(best)["data"]["store"], beside.health)
    reasons |= {"Data health": why_not} if why_not else {}
    data = replace(data, health=health)
    return replace(data, missing=what_is_missing(data, reasons))


def _with_tables(
    data: ReportData, beside: Beside, names: Mapping[Path, str]
) -> tuple[ReportData, list[Exported]]:
    """Add ladders, exports and profiles; what belongs to no run is noted."""
    exports = [read_export(folder, list(names)) for folder in beside.exports]
    places = {**names, **{e.folder: names[e.run] for e in exports if e.run is not None}}
    profiles = {path: read_profile(path, places) for path in beside.profiles}
    measured = [m for e in exports if e.run is not None for m in e.measured(names[e.run])]
    strange = [f"{e.folder} holds weights of none of these runs." for e in exports if e.run is None]
    strange += [
        f"{path} is a profile of none of these runs." for path in profiles if not profiles[path]
    ]
    more = replace(
        data,
        ladders=[read_ladder(path) for given in beside.ladders for path in find_ladders(given)],
        exports=[row for export in exports for row in export.rows()],
        measured=together([*measured, *(m for found in profiles.values() for m in found)]),
        notes=[*data.notes, *strange],
    )
    return more, exports


def _with_subject(
    data: ReportData, best: Path, split: str | None, step: Callable[[str], None]
) -> tuple[ReportData, dict[str, str]]:
    """Add what the best student does with pictures, and why where it cannot be seen."""
    step("Searching pictures")
    searched = search(best, _config(best), split)
    more = replace(
        data,
        retrieval=searched.cases,
        confusions=searched.confusions,
        confusion_matrix=searched.matrix,
    )
    return more, dict(searched.missing)


def environment() -> dict[str, str]:
    """What ran this."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "threads per process": str(torch.get_num_threads()),
        "device": "cuda" if torch.cuda.is_available() else "cpu",
    }


def scores(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out counts and losses."""
    return {key: x for key, x in metrics.items() if key.rpartition("/")[2] not in NOT_SCORES}


def _result(folder: Path) -> dict[str, Any]:
    path = folder / "result.json"
    if not path.is_file():
        running = (folder / "config.json").is_file()
        raise ValueError(
            f"{folder} holds no finished run"
            + (": its training has not ended (distill status)" if running else "")
        )
    return json.loads(path.read_text())


def _config(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text())


def _above(runs: Sequence[Path]) -> str:
    """The folder that all runs are in; as short as it can be said from here."""
    # Resolved: of relative and absolute names there is no common part.
    above = Path(os.path.commonpath([str(folder.resolve().parent) for folder in runs]))
    here = Path.cwd()
    return str(above.relative_to(here) if above.is_relative_to(here) else above)


def _names(folders: Sequence[Path]) -> dict[Path, str]:
    """Name runs by their folders; of runs with one name the folder above says which."""
    short = [folder.resolve().name for folder in folders]
    names = {}
    for folder, name in zip(folders, short, strict=True):
        twice = short.count(name) > 1
        names[folder] = f"{folder.resolve().parent.name}/{name}" if twice else name
    if len(set(names.values())) < len(folders):
        raise ValueError(f"two of the runs cannot be told apart by name: {', '.join(short)}")
    return names


def _rows(
    teachers: Sequence[Path],
    runs: Sequence[Path],
    names: Mapping[Path, str],
    results: Mapping[Path, Mapping[str, Any]],
    said: Sequence[Evaluated],
) -> list[Row]:
    """Teachers, models that were evaluated alone, students; the first teacher is the reference."""
    more = {each.name: each for each in said}

    def metrics(folder: Path) -> dict[str, Any]:
        return more_scores(scores(results[folder]["metrics"]), more.get(names[folder]))

    rows = [_row(names[f], results[f], f, "teacher", metrics(f)) for f in teachers]
    rows += [each.row() for each in said if not each.on_page]
    against = rows[0].metrics if rows else {}
    return [
        *rows,
        *(_row(names[f], results[f], f, "student", metrics(f), against) for f in runs),
    ]


def _refused(results: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Samples left out in training, by reason, over all runs."""
    refused = [result.get("refused", {}) for result in results]
    return {why: sum(r.get(why, 0) for r in refused) for r in refused for why in r}


def _row(
    name: str,
    result: Mapping[str, Any],
    folder: Path,
    role: Role,
    metrics: Mapping[str, Any],
    against: Mapping[str, Any] | None = None,
) -> Row:
    config = _config(folder)
    taught = role == "student" and is_taught(config)
    return Row(
        name=name,
        role=role,
        distilled=taught,
        control=role == "student" and not taught and is_given(config),
        image_params=result["image_params"],
        text_params=result["text_params"],
        steps=result["steps"],
        metrics=metrics,
        # Never shares of another teacher under this one's name.
        retention=_kept(metrics, against, result) if role == "student" else None,
        note="" if role == "teacher" else str(config["student"].get("name") or ""),
    )


def _kept(
    metrics: Mapping[str, Any], against: Mapping[str, Any] | None, result: Mapping[str, Any]
) -> Mapping[str, float | None] | None:
    return retention(metrics, against) if against else result.get("retention")


def _order(config: Mapping[str, Any], result: Mapping[str, Any]) -> tuple[bool, float]:
    """A distilled student before others, then by the first score."""
    return is_taught(config), next(iter(scores(result["metrics"]).values()), 0.0)
