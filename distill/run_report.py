"""A report of any runs: what each one's folder says, and what the best student does with pictures.

Roles come from the configurations: a run is a teacher where the caller says so, distilled where its
objective has a term of the teachers, a control where it was given weights of a teacher alone.
"""

import json
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from distill.evaluation.confusions import confusions
from distill.evaluation.evaluator import NOT_SCORES
from distill.report import Confusion, Curve, ReportData, Row
from distill.report.data import Role
from distill.retrieval_cases import retrieval_cases
from distill.run_log import read_log
from reinforced_data import open_dataset
from reinforced_data.source import expand_sources
from reinforced_data.store.layout import open_store
from students import load_student

_TAUGHT = ("affinity", "feature", "interactive", "relational")


def report_of_runs(
    runs: Sequence[Path],
    *,
    teachers: Sequence[Path] = (),
    title: str = "",
    pictures_of: str | None = None,
) -> ReportData:
    """Collect what the page shows.

    Args:
        runs: folders of finished trainings, the students.
        teachers: folders of finished trainings that are shown as teachers; retention is relative to
            the first.
        title: of the page; the runs' common folder when empty.
        pictures_of: split whose pictures are searched; the last one that the first run was
            evaluated on when None.

    Raises:
        ValueError: a folder holds no finished run, or two have one name.
    """
    results = {folder: _result(folder) for folder in [*teachers, *runs]}
    names = _names([*teachers, *runs])
    rows = [_row(names[f], results[f], f, "teacher") for f in teachers]
    against = rows[0].metrics if rows else {}
    rows += [_row(names[f], results[f], f, "student", against) for f in runs]
    best = max(runs, key=lambda folder: _order(_config(folder), results[folder]))
    source, notes = _pictures(best, pictures_of)
    student = load_student(best)
    refused = [results[folder].get("refused", {}) for folder in runs]
    return ReportData(
        title=title or f"Runs in {os.path.commonpath([str(f.parent) for f in runs])}",
        command=f"distill report {' '.join(str(folder) for folder in runs)}",
        reference=rows[0].name if teachers else "",
        subject=names[best] if any(row.distilled for row in rows) else "",
        rows=rows,
        curves=[curve for row, f in zip(rows, results, strict=True) for curve in curves(f, row)],
        retrieval=[] if source is None else retrieval_cases(student, source),
        confusions=[] if source is None else [Confusion(*c) for c in confusions(student, source)],
        lineage=_lineage(best),
        notes=notes,
        timings={names[f]: results[f]["seconds"] for f in results if "seconds" in results[f]},
        environment=environment(),
        skipped={why: sum(r.get(why, 0) for r in refused) for r in refused for why in r},
    )


def environment() -> dict[str, str]:
    """What ran this."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "threads per process": str(torch.get_num_threads()),
        "device": "cuda" if torch.cuda.is_available() else "cpu",
    }


def curves(folder: Path, row: Row) -> list[Curve]:
    """Loss by step; the contrastive term is the one that every run has."""
    records = [record for record in read_log(folder) if "loss/contrastive" in record]
    return [
        Curve(
            name=row.name,
            series="contrastive loss",
            steps=[int(record["step"]) for record in records],
            values=[record["loss/contrastive"] for record in records],
            role=row.role,
        )
    ]


def scores(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out counts and losses."""
    return {key: x for key, x in metrics.items() if key.rpartition("/")[2] not in NOT_SCORES}


def _pictures(best: Path, split: str | None) -> tuple[str | None, list[str]]:
    """Return the source to search, or None and why."""
    splits = _config(best)["evaluate_on"]
    if split is not None and split not in splits:
        raise ValueError(f"{best} was not evaluated on {split!r}; it has {', '.join(splits)}")
    if not splits:
        return None, ["No pictures are shown: the best student was evaluated on nothing."]
    source = splits[next(reversed(splits)) if split is None else split]
    try:
        expand_sources(source)
    except ValueError as error:
        return None, [f"No pictures are shown: {error}"]
    return source, []


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


def _row(
    name: str,
    result: Mapping[str, Any],
    folder: Path,
    role: Role,
    against: Mapping[str, Any] | None = None,
) -> Row:
    config, metrics = _config(folder), scores(result["metrics"])
    taught = role == "student" and any(config["objective"].get(term) for term in _TAUGHT)
    given = any(config["student"].get(what) for what in ("text_from", "donor"))
    shared = {k: x / against[k] for k, x in metrics.items() if against and against.get(k)}
    return Row(
        name=name,
        role=role,
        distilled=taught,
        control=role == "student" and not taught and given,
        image_params=result["image_params"],
        text_params=result["text_params"],
        steps=result["steps"],
        metrics=metrics,
        retention=None if role == "teacher" else shared or result.get("retention"),
        note="" if role == "teacher" else str(config["student"].get("name") or ""),
    )


def _order(config: Mapping[str, Any], result: Mapping[str, Any]) -> tuple[bool, float]:
    """A distilled student before others, then by the first score."""
    taught = any(config["objective"].get(term) for term in _TAUGHT)
    return taught, next(iter(scores(result["metrics"]).values()), 0.0)


def _lineage(best: Path) -> list[tuple[str, str]]:
    """From the source's shards to the student, as far as the folders say."""
    folder = _config(best)["data"]["store"]
    try:
        shards, dataset = open_store(folder).sources, open_dataset(folder)
    except ValueError:
        # A store that has moved, or went with its cluster: its name is all there is to say.
        return [("store", folder), ("student", str(best))]
    more = f" and {len(shards) - 1} more" if len(shards) > 1 else ""
    chain = [("source", f"{shards[0]}{more}"), ("store", folder)]
    chain += [("teacher", teacher.name) for teacher in dataset.teachers]
    return [*chain, ("student", str(best))]
