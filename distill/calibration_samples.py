"""What exported files are calibrated and checked on: the views a run learned from, or shards.

The views are read as training reads them: the stored crops and operations, replayed at the
student's size, with the captions of the run's own policy. Calibrating on what a network was trained
on gives ranges of the right distribution; checks take whole pictures, as an app does.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from distill.samples import real_samples
from reinforced_data import open_dataset
from reinforced_data.captions.policy import CaptionPolicy
from reinforced_data.store.layout import open_store
from students import Student
from students.exporters.calibration import Calibration
from students.exporters.parity import Samples


def store_of(run: str | Path) -> str:
    """Return the store that a run was trained on.

    Raises:
        ValueError: the folder is no run.
    """
    return _data(run)["store"]


def stored_calibration(student: Student, run: str | Path, count: int) -> Calibration:
    """Replay the first `count` views in the order of a run's training.

    Raises:
        ValueError: the folder is no run, or its store or the store's source is not there.
    """
    data = _data(run)
    try:
        dataset = open_dataset(data["store"], data.get("view_set"))
        captions: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in data["captions"].items()
        }
        loader = dataset.loader(
            preprocess=student.preprocess,
            tokenizer=student.tokenizer,
            batch_size=min(count, dataset.num_samples),
            num_steps=1,
            seed=_config(run)["seed"],
            teachers=(),
            views=data["views"],
            captions=CaptionPolicy(**captions),
        )
        (batch,) = loader
    except OSError as error:
        raise ValueError(f"the pictures of {data['store']} cannot be read: {error}") from error
    return Calibration(
        pixels=batch.pixels,
        tokens=batch.tokens,
        origin={
            "store": data["store"],
            "view_set": dataset.view_set,
            "views": len(batch.pixels),
            "first_keys": batch.keys[:3],
            **_digest(batch.pixels, batch.tokens),
        },
    )


def stored_pictures(store: str, count: int) -> Samples:
    """Return the first whole pictures of a store's source, with their captions."""
    return real_samples(open_store(store).sources, count)


def shard_calibration(student: Student, source: str, count: int) -> Calibration:
    """Take the first whole pictures of a source and their captions."""
    samples = real_samples(source, count)
    views = [student.preprocess.whole_view(picture) for picture, _ in samples]
    pixels = torch.from_numpy(np.stack(views))
    tokens = student.tokenizer([caption for _, caption in samples])
    origin = {"shards": source, "pictures": len(samples), **_digest(pixels, tokens)}
    return Calibration(pixels=pixels, tokens=tokens, origin=origin)


def _digest(*tensors: torch.Tensor) -> dict[str, str]:
    """What tells two calibrations apart."""
    found = hashlib.sha256()
    for tensor in tensors:
        found.update(tensor.contiguous().numpy().tobytes())
    return {"sha256": found.hexdigest()}


def _data(run: str | Path) -> dict[str, Any]:
    return _config(run)["data"]


def _config(run: str | Path) -> dict[str, Any]:
    path = Path(run) / "config.json"
    if not path.is_file():
        raise ValueError(f"{run} is no training run (it has no config.json), so it names no store")
    return json.loads(path.read_text(encoding="utf-8"))
