"""How far a training run has come: read from its folder alone, while it trains.

Any machine that sees the folder can ask. Left out: whether the process is alive, which a folder
cannot tell; the age of the newest record says how likely it is.
"""

import json
import re
import time
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from reinforced_data.store.storage import Storage

_SIZES = "stages/2-folded/sizes.json"
_CHECKPOINT = re.compile(r"step-(\d{8})")
# What the trainer logs beside losses; everything else in a record is a metric.
_NOT_METRICS = ("step", "learning_rate", "logit_scale", "samples_per_second")


@dataclass(frozen=True, kw_only=True)
class RunProgress:
    """A training run.

    Attributes:
        run: the folder.
        step: of the newest record.
        num_steps: where it ends.
        finished: whether `result.json` is there.
        samples_per_second: as last logged.
        steps_per_second: the same in steps.
        seconds_left: at this rate; None when it is not known.
        checkpoint: step of the newest complete checkpoint.
        loss: the terms as last logged.
        metrics: of the last evaluation.
        metrics_step: when that was.
        refused: samples left out, by reason; known when finished.
        seconds_since_record: age of the log, where the file system tells.
        sizes: what learned masks found, as OUT/stages/2-folded/sizes.json says; else empty.
    """

    run: str
    step: int
    num_steps: int | None
    finished: bool
    samples_per_second: float | None
    steps_per_second: float | None
    seconds_left: float | None
    checkpoint: int | None
    loss: dict[str, float]
    metrics: dict[str, float]
    metrics_step: int | None
    refused: dict[str, int]
    seconds_since_record: float | None
    sizes: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Return JSON values."""
        return {"kind": "run", **asdict(self)}


def is_run(storage: Storage) -> bool:
    """Whether a folder is that of a training run."""
    return storage.exists("config.json") or storage.exists("log.jsonl")


def run_progress(path: str | Path, *, now: float | None = None) -> RunProgress:
    """Look at a run's folder, local or at any fsspec URL.

    Raises:
        ValueError: the folder holds no run.
    """
    storage = Storage(path)
    if not is_run(storage):
        raise ValueError(f"{storage.name} is no training run: it has no config.json, no log.jsonl")
    config = storage.read_json("config.json") if storage.exists("config.json") else {}
    result = storage.read_json("result.json") if storage.exists("result.json") else {}
    records = _records(storage)
    trained = _last(records, lambda record: "loss/total" in record)
    evaluated = _last(records, lambda record: bool(_metrics(record)))
    step = max((record["step"] for record in records), default=int(result.get("steps", 0)))
    num_steps = config.get("schedule", {}).get("num_steps")
    speed = trained.get("samples_per_second")
    batch_size = config.get("data", {}).get("batch_size")
    steps_per_second = speed / batch_size if speed and batch_size else None
    left = None if num_steps is None else max(0, num_steps - step)
    return RunProgress(
        run=storage.name,
        step=step,
        num_steps=num_steps,
        finished=bool(result),
        samples_per_second=speed,
        steps_per_second=steps_per_second,
        seconds_left=0.0
        if result
        else left / steps_per_second
        if left and steps_per_second
        else None,
        checkpoint=_newest_checkpoint(storage),
        loss={name[5:]: value for name, value in trained.items() if name.startswith("loss/")},
        metrics=result.get("metrics") or _metrics(evaluated),
        metrics_step=step if result.get("metrics") else evaluated.get("step"),
        refused=result.get("refused", {}),
        seconds_since_record=_age(storage, "log.jsonl", time.time() if now is None else now),
        sizes=storage.read_json(_SIZES) if storage.exists(_SIZES) else {},
    )


def _records(storage: Storage) -> list[dict[str, Any]]:
    """The log's records; its last line may be in the middle of being written."""
    if not storage.exists("log.jsonl"):
        return []
    lines = storage.read("log.jsonl").decode().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def _last(records: list[dict[str, Any]], wanted: Any) -> dict[str, Any]:
    return next((record for record in reversed(records) if wanted(record)), {})


def _metrics(record: dict[str, Any]) -> dict[str, float]:
    if "loss/total" in record:
        return {}
    return {name: value for name, value in record.items() if name not in _NOT_METRICS}


def _newest_checkpoint(storage: Storage) -> int | None:
    found = [_CHECKPOINT.fullmatch(name) for name in storage.list("checkpoints", "")]
    return max((int(match[1]) for match in found if match), default=None)


def _age(storage: Storage, path: str, now: float) -> float | None:
    if not storage.exists(path):
        return None
    about = storage.fs.info(f"{storage.root}/{path}")
    names = ("mtime", "LastModified", "last_modified", "updated", "created")
    changed = next((about[name] for name in names if about.get(name) is not None), None)
    changed = changed.timestamp() if isinstance(changed, datetime) else changed
    return max(0.0, now - changed) if isinstance(changed, int | float) else None
