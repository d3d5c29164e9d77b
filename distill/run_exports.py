"""What `distill export` and `distill profile --json` left behind, tied to the runs of a report.

An export belongs to the run whose weights it holds: the same tensors, whatever the folders are
called. A profile names its student's folder.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from distill.report import ExportedFile, Measured, TowerCost
from students.exporters.metadata import METADATA_FILE
from students.student import WEIGHTS_FILE


@dataclass(frozen=True, kw_only=True)
class HashedFile:
    """A file of an export: its path inside, its format, and the hash that metadata.json has."""

    path: str
    format: str
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Exported:
    """One folder that `distill export` wrote.

    Attributes:
        run: whose weights it holds; None: none of the report's.
        towers: rows as `ExportRow`.
        files: the towers' own files.
        versions: of what wrote it.
        verdicts: what each form's files decide and score, as `students.exporters.judging.Verdict`.
    """

    folder: Path
    run: Path | None
    towers: list[dict[str, Any]]
    files: list[HashedFile]
    versions: dict[str, str | None]
    verdicts: list[dict[str, Any]]

    def rows(self) -> list[ExportedFile]:
        """The towers as the report's table has them."""
        return [
            ExportedFile(
                format=_form(tower),
                tower=tower["tower"],
                path=str(self.folder / tower["path"]),
                bytes=tower["bytes"],
                relative_error=tower.get("relative_error"),
                latency_ms=tower.get("latency_ms"),
            )
            for tower in self.towers
        ]

    def measured(self, name: str) -> list[Measured]:
        """What the files cost and score, form by form, under a row's name."""
        scores = {_form(found): found for found in self.verdicts if found["metric"] is not None}
        forms = {_form(tower): tower.get("quantize", "none") for tower in self.towers}
        return [
            Measured(
                name=name,
                form=form,
                rounded=quantize != "none",
                **_costs(tower for tower in self.towers if _form(tower) == form),
                **_score(scores.get(form)),
            )
            for form, quantize in forms.items()
        ]


def read_export(folder: Path, runs: Sequence[Path]) -> Exported:
    """Read an export and find its run.

    Raises:
        ValueError: there is no export in the folder, or its metadata lacks something.
    """
    path = folder / METADATA_FILE
    how = "write one with `distill export STUDENT OUT`"
    metadata = read_object(path, how)
    if not isinstance(metadata.get("towers"), list) or not isinstance(metadata.get("files"), dict):
        raise ValueError(f"{path} lists no towers and files: name a folder that export wrote")
    try:
        found = _exported(folder, metadata, runs)
        # What these lack is better said here, where the file has a name.
        found.rows()
        found.measured("")
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is no export's: {error!r} in towers or files; {how}") from error
    return found


def _exported(folder: Path, metadata: Mapping[str, Any], runs: Sequence[Path]) -> Exported:
    towers = metadata["towers"]
    forms = {tower["path"]: f"{_form(tower)}, {tower['tower']} tower" for tower in towers}
    return Exported(
        folder=folder,
        run=next((run for run in runs if _same_weights(run, folder)), None),
        towers=towers,
        files=[
            HashedFile(path=name, format=form, sha256=str(file["sha256"]))
            for name, file in metadata["files"].items()
            # A Core ML package is a folder of files.
            if (form := forms.get(name) or forms.get(name.split("/")[0]))
        ],
        versions=metadata.get("versions") or {},
        verdicts=metadata.get("verdicts") or [],
    )


def read_profile(path: Path, names: Mapping[Path, str]) -> list[Measured]:
    """Read what `distill profile` wrote: the student as it ships, and files of it.

    Args:
        path: the JSON file, of `--out` or `--json`.
        names: folder of a run, or of an export of it -> name of its row.

    Returns:
        Nothing where the profile is of none of these.

    Raises:
        ValueError: it is no profile.
    """
    found = read_object(path, "write one with `distill profile RUN --out FILE`")
    try:
        student, files = Path(found["student"]).resolve(), found.get("files", [])
        size = found["batch_size"]
        eager = [t for t in found.get("towers", ()) if t["form"] == "inference"]
        forms = {}
        if eager:
            forms[f"torch on {found['device']}"] = [{**t, "batch_size": size} for t in eager]
        for row in files:
            forms.setdefault(row["form"].replace(":", " "), []).append(row)
        costs = {form: _costs(rows) for form, rows in forms.items()}
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is no profile: {error!r}. It is what --out or --json writes"
        ) from error
    # A profile of an export, or of a file in it, names no run.
    inside = () if "towers" in found else student.parents
    places = [place for place in names if place.resolve() in (student, *inside)]
    if not places:
        return []
    name = names[max(places, key=lambda place: len(place.resolve().parts))]
    return [
        Measured(name=name, form=form, rounded=" " in form and not form.startswith("torch"), **cost)
        for form, cost in costs.items()
    ]


def together(measured: Sequence[Measured]) -> list[Measured]:
    """Put what is known of one form of one run into one; what comes later counts.

    A model's own score comes from the export that compared its files with it.
    """
    found: dict[tuple[str, str], Measured] = {}
    for each in measured:
        before = found.get((each.name, each.form))
        known = {f.name: v for f in fields(each) if (v := getattr(each, f.name)) not in (None, "")}
        found[each.name, each.form] = replace(before, **known) if before else each
    scores = {m.name: (m.metric, m.score_of_model) for m in measured if m.metric}
    for key, each in found.items():
        if each.form.startswith("torch") and each.name in scores:
            metric, score = scores[each.name]
            found[key] = replace(each, metric=metric, score=score, score_of_model=score)
    return sorted(found.values(), key=lambda m: (m.name, not m.form.startswith("torch")))


def _costs(rows: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Costs by tower; a call's time is shared by its rows."""
    return {
        row["tower"]: TowerCost(
            bytes=row["bytes"],
            latency_ms=_shared(row, "latency_ms"),
            latency_p95_ms=_shared(row, "latency_p95_ms"),
            memory_bytes=row.get("memory_bytes"),
        )
        for row in rows
        if row["tower"] in ("image", "text")
    }


def _shared(row: Mapping[str, Any], key: str) -> float | None:
    rows = row.get("batch_size") or row.get("input_shape", [1])[0]
    time = row.get(key)
    return None if time is None else time / (1 if rows == "n" else rows)


def _score(verdict: Mapping[str, Any] | None) -> dict[str, Any]:
    if verdict is None:
        return {}
    return {
        "metric": verdict["metric_name"],
        "score": verdict["metric"],
        "score_of_model": verdict["metric_of_model"],
    }


def _same_weights(run: Path, folder: Path) -> bool:
    paths = [run / WEIGHTS_FILE, folder / WEIGHTS_FILE]
    if not all(path.is_file() for path in paths):
        return False
    # Tensors, not bytes: files of the same weights may differ in what their heads say.
    a, b = map(load_file, paths)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def _form(tower: Mapping[str, Any]) -> str:
    precision = tower.get("quantize", "none")
    return tower["format"] if precision == "none" else f"{tower['format']} {precision}"


def read_object(path: Path, how: str) -> dict[str, Any]:
    """Read a JSON object; messages say `how` one is written."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read ({error}); {how}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds no JSON object; {how}")
    return found
