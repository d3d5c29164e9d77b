"""What `distill export` and `distill profile --json` left behind, tied to the runs of a report.

An export belongs to the run whose weights it holds: the same tensors, whatever the folders are
called. A profile names its student's folder.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from distill.report import ExportedFile, Measured
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
    """

    folder: Path
    run: Path | None
    towers: list[dict[str, Any]]
    files: list[HashedFile]
    versions: dict[str, str | None]

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
        """What the picture towers cost, under a row's name."""
        return [
            Measured(
                name=name, form=_form(tower), bytes=tower["bytes"],
                latency_ms=tower.get("latency_ms"),
            )
            for tower in self.towers
            if tower["tower"] == "image"
        ]  # fmt: skip


def read_export(folder: Path, runs: Sequence[Path]) -> Exported:
    """Read an export and find its run.

    Raises:
        ValueError: there is no export in the folder.
    """
    path = folder / METADATA_FILE
    metadata = _read(path, "write one with `distill export STUDENT OUT`")
    if not isinstance(metadata.get("towers"), list) or not isinstance(metadata.get("files"), dict):
        raise ValueError(f"{path} lists no towers and files: name a folder that export wrote")
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
    )


def read_profile(path: Path, names: Mapping[Path, str]) -> list[Measured]:
    """Read what `distill profile STUDENT --json` printed: the picture tower as it ships.

    Args:
        path: the JSON file.
        names: folder of a run -> name of its row.

    Returns:
        Nothing where the profile is of none of these.

    Raises:
        ValueError: it is no profile.
    """
    found = _read(path, "write one with `distill profile RUN --json > FILE`")
    try:
        student, size = Path(found["student"]).resolve(), found["batch_size"]
        form = f"torch on {found['device']}"
        towers = [t for t in found["towers"] if (t["tower"], t["form"]) == ("image", "inference")]
        costs = [(tower["latency_ms"] / size, tower["bytes"]) for tower in towers]
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path} is no profile: {error!r}. It is what --json prints") from error
    return [
        Measured(name=name, form=form, latency_ms=time, bytes=weights)
        for run, name in names.items()
        if run.resolve() == student
        for time, weights in costs
    ]


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


def _read(path: Path, how: str) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read ({error}); {how}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds no JSON object; {how}")
    return found
