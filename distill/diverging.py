"""A run that gives up leaves a dump, and `replay_step` computes its last step again.

Which samples, views, captions and dropout a step has is a function of (seed, step), so the dump
needs the weights and the configuration alone; keys are written down for people to look at.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from distill.config import RunConfig
from distill.feeding import batches, locked_rows, numbered_samples, teacher_dims
from distill.locked_students import without_locked_encoders
from distill.preparing import accelerator_for
from distill.run_log import write_json
from distill.standardizing import standards_of_run
from distill.stepping import Stepper
from reinforced_data import ReinforcedDataset
from students import Student
from students.composing import PartialStudent

SKIPPED_FILE = "skipped-steps.jsonl"
_DUMP = "dump.json"
_WEIGHTS = "module.safetensors"


class DivergedError(RuntimeError):
    """Too many steps in a row were bad; the message says where checkpoint and dump are."""


def note_skipped(folder: Path, record: dict[str, Any]) -> None:
    """Append one left-out step: step, reason, values, and each process's keys."""
    with (folder / SKIPPED_FILE).open("a") as file:
        file.write(json.dumps(record) + "\n")


def write_dump(
    folder: Path, state: Mapping[str, Tensor], config: RunConfig, record: dict[str, Any]
) -> Path:
    """Write everything that computes the step of `record` again; return the dump's folder."""
    dump = folder / f"diverged-step-{record['step']:08d}"
    dump.mkdir(parents=True, exist_ok=True)
    tensors = {n: v.detach().cpu().clone().contiguous() for n, v in state.items()}
    save_file(tensors, dump / _WEIGHTS)
    write_json(dump / _DUMP, {**record, "config": config.as_json()})
    return dump


def replay_step(
    dump: str | Path,
    student: Student,
    dataset: ReinforcedDataset,
    *,
    config: RunConfig | None = None,
) -> dict[str, float]:
    """Compute the loss terms and gradient norm of a dumped step again; nothing is changed.

    On the machine and with the number of processes that wrote the dump (one, here) the loss is the
    same bit for bit.

    Args:
        dump: the `diverged-step-*` folder.
        student: built as for the run; its weights are replaced by the dump's. Where the run read an
            encoder from the store it is left out here too.
        dataset: the run's store.
        config: with custom terms, the run's own; otherwise the dump's is read.

    Raises:
        ValueError: a step with learned masks, whose state is not in the student alone; or a dump of
            an earlier release.
    """
    record = json.loads((Path(dump) / _DUMP).read_text())
    config = config or RunConfig.from_json(record["config"])
    accelerator = accelerator_for(config.precision)
    dims = teacher_dims(dataset, config)
    if config.lock.sides and not isinstance(student, PartialStudent):
        student = without_locked_encoders(student, dataset, config)
    standards = standards_of_run(dataset, replace(config, out=""), accelerator)
    rows, count = locked_rows(dataset, config), numbered_samples(dataset, config)
    stepper = Stepper(student, config, dims, accelerator, standards, rows, num_samples=count)
    _load(stepper, Path(dump))
    stepper.tokens.count(dataset)
    step = record["step"]
    batch = next(iter(batches(dataset, student, config, first=step - 1, last=step)))
    return {name: float(value) for name, value in stepper.gradients(batch, step).items()}


def _load(stepper: Stepper, dump: Path) -> None:
    """Put the dump's weights into student, heads and moving average."""
    tensors = load_file(dump / _WEIGHTS)
    modules = stepper.modules()
    found = {name.partition("/")[0] for name in tensors}
    if found != modules.keys():
        raise ValueError(
            f"{dump} holds the state of {sorted(found)[:3]}, and this run's is "
            f"{sorted(modules)}: a step with learned masks cannot be computed again, nor one that "
            "an earlier release dumped"
        )
    for part, module in modules.items():
        own = {n.partition("/")[2]: v for n, v in tensors.items() if n.startswith(f"{part}/")}
        module.load_state_dict(own)
