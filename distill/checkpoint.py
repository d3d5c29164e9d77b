"""Checkpoints that survive a crash: temporary name, sync, rename, and only then the old one goes.

accelerate's `save_state` deletes the oldest before it writes the newest and writes in place, and
it pickles. Here a checkpoint is two files without code: tensors in safetensors, the rest in JSON
with the tensors' SHA-256 and its own. A folder under its final name was complete; whether it still
is, the hashes say. No random state is kept: a step draws from (seed, step, rank).
"""

import hashlib
import json
import os
import re
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from distill.shards import gathered, like

_NAME = re.compile(r"step-(\d{8})")
_FORMAT = 2
_TENSORS = "tensors.safetensors"
_META = "meta.json"


def save_checkpoint(
    folder: Path,
    step: int,
    modules: Mapping[str, nn.Module],
    optimizer: torch.optim.Optimizer,
    extra: Mapping[str, Any] | None = None,
    *,
    writes: bool = True,
) -> Path:
    """Write the state after `step` optimizer steps and return its folder.

    Args:
        folder: where checkpoints of the run live.
        step: how many steps are done.
        modules: by name, e.g. {"model": ..., "ema": ...}.
        optimizer: its tensors and its numbers are both kept.
        extra: JSON values that `load_checkpoint` hands back.
        writes: false on the processes that only hand over their shards of the tensors.

    Raises:
        OSError: the disk is full or the folder cannot be written; older checkpoints are whole.
    """
    tensors, numbers = _state(modules, optimizer, writes)
    target = folder / f"step-{step:08d}"
    if not writes:
        return target
    meta = {
        "format": _FORMAT,
        "step": step,
        "optimizer": {"numbers": numbers, "param_groups": _groups(optimizer)},
        "extra": dict(extra or {}),
    }
    partial = folder / f"partial-{step:08d}-{os.getpid()}"
    before = folder / f"partial-old-{step:08d}-{os.getpid()}"
    try:
        shutil.rmtree(partial, ignore_errors=True)  # a killed process may have had this number
        partial.mkdir(parents=True)
        save_file(tensors, partial / _TENSORS)
        meta["sha256"] = _digest(partial / _TENSORS)
        (partial / _META).write_text(json.dumps({**meta, "digest": _own_digest(meta)}))
        for file in partial.iterdir():
            _sync(file)
        _sync(partial)
        if target.exists():
            target.rename(before)
        partial.rename(target)
        _sync(folder)
        shutil.rmtree(before, ignore_errors=True)
    except Exception as error:  # safetensors has an error of its own for a full disk
        if before.exists() and not target.exists():
            before.rename(target)
        shutil.rmtree(partial, ignore_errors=True)
        raise OSError(
            f"the checkpoint {target} cannot be written ({error}). Older ones are whole: make room "
            "and give the same command again"
        ) from error
    return target


def load_checkpoint(
    path: Path, modules: Mapping[str, nn.Module], optimizer: torch.optim.Optimizer
) -> tuple[int, dict[str, Any]]:
    """Restore what `save_checkpoint` wrote into the same modules; return step and extra values.

    Args:
        path: one that `newest_checkpoint` found whole; hashing it a second time would cost as much
            as reading it.
        modules: as they were saved.
        optimizer: likewise.

    Raises:
        ValueError: the checkpoint belongs to another model.
    """
    meta = json.loads((path / _META).read_text())
    tensors = load_file(path / _TENSORS)
    for name, module in modules.items():
        prefix = f"{name}/"
        values = {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}
        now = module.state_dict()
        try:
            module.load_state_dict(
                {k: like(v, now[k]) if k in now else v for k, v in values.items()}
            )
        except RuntimeError as error:
            raise ValueError(
                f"{path} holds another model than this run builds ({error}); use another out "
                "folder, or remove the checkpoints to start over"
            ) from None
    state: dict[int, dict[str, Any]] = {}
    learned = dict(enumerate(p for group in optimizer.param_groups for p in group["params"]))
    for key, value in tensors.items():
        if key.startswith("optimizer/"):
            _, index, entry = key.split("/")
            ours = learned.get(int(index), value)
            # A step count is no shard of anything.
            value = like(value, ours) if value.shape == ours.shape else value
            state.setdefault(int(index), {})[entry] = value
    for index, entries in meta["optimizer"]["numbers"].items():
        state.setdefault(int(index), {}).update(entries)
    groups = meta["optimizer"]["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
    return int(meta["step"]), meta["extra"]


def newest_checkpoint(folder: Path) -> Path | None:
    """Return the newest whole checkpoint of a run, or None; warn of damaged ones passed over."""
    for path in sorted(_finished(folder), reverse=True):
        problem = find_damage(path)
        if problem is None:
            return path
        warnings.warn(f"the checkpoint {path} is not used: {problem}", stacklevel=2)
    return None


def find_damage(path: Path) -> str | None:
    """Say what is wrong with a checkpoint's files, or None when they are as they were written."""
    try:
        meta = json.loads((path / _META).read_text())
    except (OSError, ValueError) as error:
        return f"{_META} cannot be read ({error})"
    if not isinstance(meta, dict) or meta.get("format") != _FORMAT:
        return f"{_META} is not of format {_FORMAT}, which this version reads"
    if meta.pop("digest", None) != _own_digest(meta):
        return f"{_META} was changed after it was written"
    try:
        if _digest(path / _TENSORS) != meta["sha256"]:
            return f"{_TENSORS} was changed or cut off after it was written"
    except OSError as error:
        return f"{_TENSORS} cannot be read ({error})"
    return None


def remove_old_checkpoints(folder: Path, keep: int, step: int) -> None:
    """Delete all but the newest `keep` up to `step`, and what an interrupted save left.

    Later ones were passed over when the run began, as damaged or of another format: they stay until
    their own step is saved, and count for nothing.
    """
    finished = sorted(path for path in _finished(folder) if int(path.name[5:]) <= step)
    for path in [*finished[: max(0, len(finished) - keep)], *folder.glob("partial-*")]:
        shutil.rmtree(path)


def _finished(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return [path for path in folder.iterdir() if _NAME.fullmatch(path.name)]


def _state(
    modules: Mapping[str, nn.Module], optimizer: torch.optim.Optimizer, keep: bool
) -> tuple[dict[str, Tensor], dict[str, dict[str, Any]]]:
    """Return all tensors by path, and the optimizer's plain numbers by parameter."""
    tensors: dict[str, Tensor] = {}

    def put(path: str, value: Tensor) -> None:
        whole = gathered(value.detach())
        if keep:  # a clone each: safetensors refuses tensors that share memory
            tensors[path] = whole.cpu().clone().contiguous()

    for name, module in modules.items():
        for key, value in module.state_dict().items():
            put(f"{name}/{key}", value)
    numbers: dict[str, dict[str, Any]] = {}
    for index, entries in optimizer.state_dict()["state"].items():
        # bitsandbytes keeps its tensors one dictionary deeper, and reads them at either depth.
        deeper = [value for value in entries.values() if isinstance(value, dict)]
        flat = {k: v for part in (entries, *deeper) for k, v in part.items()}
        for key, value in flat.items():
            if isinstance(value, Tensor):
                put(f"optimizer/{index}/{key}", value)
            elif not isinstance(value, dict):
                numbers.setdefault(str(index), {})[key] = value
    return tensors, numbers


def _groups(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """Parameter groups as JSON values; timm's LAMB counts its steps in a tensor of one number."""
    groups = optimizer.state_dict()["param_groups"]
    return [{k: v.item() if isinstance(v, Tensor) else v for k, v in g.items()} for g in groups]


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _own_digest(meta: Mapping[str, Any]) -> str:
    # Through JSON, so that what is read back gives the same text.
    text = json.dumps(json.loads(json.dumps(meta)), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _sync(path: Path) -> None:
    """Flush a file or a folder entry to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
