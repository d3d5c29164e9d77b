"""Checkpoints that survive a crash: temporary name, sync, rename, and only then the old one goes.

accelerate's `save_state` deletes the oldest before it writes the newest and writes in place, and
it pickles. Here a checkpoint is two files without code: tensors in safetensors, the rest in JSON.
A folder under its final name is complete.
"""

import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

_NAME = re.compile(r"step-(\d{8})")


def save_checkpoint(
    folder: Path, step: int, modules: Mapping[str, nn.Module], optimizer: torch.optim.Optimizer
) -> Path:
    """Write the state after `step` optimizer steps and return its folder.

    Args:
        folder: where checkpoints of the run live.
        step: how many steps are done.
        modules: by name, e.g. {"model": ..., "ema": ...}.
        optimizer: its tensors and its numbers are both kept.
    """
    tensors: dict[str, Tensor] = {"rng": torch.get_rng_state()}
    for name, module in modules.items():
        for key, value in module.state_dict().items():
            # A clone each: safetensors refuses tensors that share memory.
            tensors[f"{name}/{key}"] = value.detach().cpu().clone().contiguous()
    state = optimizer.state_dict()
    numbers: dict[str, dict[str, Any]] = {}
    for index, entries in state["state"].items():
        for key, value in entries.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer/{index}/{key}"] = value.detach().cpu().clone().contiguous()
            else:
                numbers.setdefault(str(index), {})[key] = value
    meta = {
        "format": 1,
        "step": step,
        "optimizer": {"numbers": numbers, "param_groups": state["param_groups"]},
    }
    target = folder / f"step-{step:08d}"
    partial = folder / f"partial-{step:08d}-{os.getpid()}"
    shutil.rmtree(partial, ignore_errors=True)  # a killed process may have had this number
    partial.mkdir(parents=True)
    save_file(tensors, partial / "tensors.safetensors")
    (partial / "meta.json").write_text(json.dumps(meta))
    for file in partial.iterdir():
        _sync(file)
    _sync(partial)
    if target.exists():
        shutil.rmtree(target)
    partial.rename(target)
    _sync(folder)
    return target


def load_checkpoint(
    path: Path, modules: Mapping[str, nn.Module], optimizer: torch.optim.Optimizer
) -> int:
    """Restore what `save_checkpoint` wrote into the same modules; return the step.

    Raises:
        ValueError: the checkpoint belongs to another model, optimizer or format.
    """
    meta = json.loads((path / "meta.json").read_text())
    if meta.get("format") != 1:
        raise ValueError(f"{path}: checkpoint format {meta.get('format')}, this version reads 1")
    tensors = load_file(path / "tensors.safetensors")
    for name, module in modules.items():
        prefix = f"{name}/"
        values = {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}
        try:
            module.load_state_dict(values)
        except RuntimeError as error:
            raise ValueError(
                f"{path} holds another model than this run builds ({error}); use another out "
                "folder, or remove the checkpoints to start over"
            ) from None
    state: dict[int, dict[str, Any]] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer/"):
            _, index, entry = key.split("/")
            state.setdefault(int(index), {})[entry] = value
    for index, entries in meta["optimizer"]["numbers"].items():
        state.setdefault(int(index), {}).update(entries)
    groups = meta["optimizer"]["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
    torch.set_rng_state(tensors["rng"])
    return int(meta["step"])


def newest_checkpoint(folder: Path) -> Path | None:
    """Return the newest complete checkpoint of a run, or None."""
    if not folder.is_dir():
        return None
    complete = [path for path in folder.iterdir() if _NAME.fullmatch(path.name)]
    return max(complete, default=None, key=lambda path: path.name)


def remove_old_checkpoints(folder: Path, keep: int) -> None:
    """Delete all but the newest `keep`, and what an interrupted save left."""
    complete = sorted(path for path in folder.iterdir() if _NAME.fullmatch(path.name))
    for path in [*complete[: max(0, len(complete) - keep)], *folder.glob("partial-*")]:
        shutil.rmtree(path)


def _sync(path: Path) -> None:
    """Flush a file or a folder entry to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
