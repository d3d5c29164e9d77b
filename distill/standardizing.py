"""Fit PHI-S to a stored teacher's rows, once, and keep it beside the run that uses it.

The rows are those that training reads: every view, every caption, decoded. One pass in float64;
of a large store a sample spread evenly over its shards. Nothing is learned, nothing is drawn.
"""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from distill.config import RunConfig
from distill.feeding import stored_teachers
from distill.losses.adapters import MODALITIES, Modality, Standards
from distill.losses.phi_s import Moments, Standardization, phi_s
from reinforced_data import ReinforcedDataset
from reinforced_data.codecs.of_columns import stored_dtype
from reinforced_data.reading.reader import StoredTeacher
from reinforced_data.store.arrow_rows import fixed_values, ragged_values, valid_rows
from teachers.suggestions import unknown_name

FILE = "standardization.safetensors"
# 340 times the width of a teacher of 768.
_MOST_ROWS = 262_144


def fit_standardization(
    dataset: ReinforcedDataset,
    *,
    teacher: str,
    modality: Modality = "image",
    max_rows: int = _MOST_ROWS,
) -> Standardization:
    """Fit to the rows of one teacher and modality.

    Args:
        dataset: an opened store.
        teacher: its name in the store.
        modality: "image" or "text".
        max_rows: how many rows to use at most, the same share of every shard.

    Raises:
        ValueError: the store has no such teacher, or its rows do not vary.
    """
    known = {stored.name: stored for stored in dataset.teachers}
    if teacher not in known:
        raise ValueError(f"{dataset.path}: {unknown_name('teacher', teacher, known)}")
    if getattr(known[teacher], modality) is None:
        raise ValueError(f"{dataset.path}: the teacher {teacher!r} has no {modality} rows")
    moments = Moments(known[teacher].embed_dim)
    for rows in _rows(dataset, known[teacher], modality, max_rows):
        moments.add(torch.from_numpy(rows))
    try:
        return phi_s(moments)
    except ValueError as error:
        raise ValueError(f"{dataset.path}, {modality} rows of {teacher}: {error}") from None


def standards_of_run(
    dataset: ReinforcedDataset, config: RunConfig, accelerator: Accelerator
) -> list[Standards] | None:
    """What the run's objective standardises with, or None; kept in `config.out` as `FILE`.

    A run that resumes goes on with what it had. Of several processes the main one fits, and the
    others read its file.
    """
    if not config.objective.standardizes:
        return None
    teachers = stored_teachers(dataset, config)
    folder = Path(config.out) if config.out else None
    begun = folder is not None and any((folder / "checkpoints").glob("step-*"))
    with accelerator.main_process_first():
        return fit_all(dataset, teachers, folder, keep=begun or not accelerator.is_main_process)


def fit_all(
    dataset: ReinforcedDataset,
    teachers: Sequence[StoredTeacher],
    folder: Path | None,
    *,
    keep: bool,
) -> list[Standards]:
    """Fit to every teacher's rows and write `FILE` into the folder, or read it there.

    Args:
        dataset: an opened store.
        teachers: in the order of the objective's.
        folder: of the run; None writes nothing.
        keep: use what the folder holds: a run that resumes goes on with the targets it had.
    """
    path = None if folder is None else folder / FILE
    tensors: dict[str, torch.Tensor] = {}
    if keep and path is not None and path.is_file():
        tensors = _read(path)
    standards: list[Standards] = []
    for teacher in teachers:
        own: Standards = {}
        for modality in MODALITIES:
            column = getattr(teacher, modality)
            if column is None:  # a teacher of the other modality alone
                continue
            prefix = f"{column.name}/"
            found = {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}
            own[modality] = (
                Standardization.from_tensors(found)
                if found
                else fit_standardization(dataset, teacher=teacher.name, modality=modality)
            )
        standards.append(own)
    if path is not None and not keep:
        _write(path, teachers, standards)
    return standards


def _write(path: Path, teachers: Sequence[StoredTeacher], standards: Sequence[Standards]) -> None:
    tensors = {
        f"{getattr(teacher, modality).name}/{name}": value.contiguous()
        for teacher, own in zip(teachers, standards, strict=True)
        for modality, standard in own.items()
        for name, value in standard.tensors().items()
    }
    partial = path.with_name(f"partial-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, partial)
        partial.replace(path)
    except (OSError, SafetensorError) as error:
        raise ValueError(
            f"{path} cannot be written ({error}); give another out folder, or make room"
        ) from error


def _read(path: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise ValueError(
            f"{path} cannot be read ({error}); remove it, and the same rows are fitted again"
        ) from error


def _rows(
    dataset: ReinforcedDataset, teacher: StoredTeacher, modality: Modality, max_rows: int
) -> Iterator[np.ndarray]:
    """Decoded rows of a column, shard by shard; those of skipped samples are not there."""
    column = getattr(teacher, modality)
    codec = getattr(teacher, f"{modality}_codec")
    dtype = stored_dtype(column.identity["codec"])
    shards = sorted(dataset.store.done(column))
    share = math.ceil(max_rows / max(1, len(shards)))
    for shard in shards:
        array = dataset.store.rows(column, shard)["rows"]
        if modality == "image":
            values = fixed_values(array, dtype).reshape(-1, codec.width(teacher.embed_dim))
            there = np.repeat(valid_rows(array), dataset.num_views)
        else:  # a skipped sample has no captions
            values = ragged_values(array, dtype)[1]
            there = np.ones(len(values), dtype=bool)
        there = np.flatnonzero(there)
        chosen = there[np.linspace(0, len(there) - 1, min(share, len(there))).astype(np.int64)]
        yield codec.unit_rows(values[chosen], teacher.embed_dim)
