"""What is done to a student, and to Accelerate, before the first step."""

import warnings

import psutil
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from students import Student

_ENCODERS = ("encode_image", "encode_text")


def accelerator_for(precision: str) -> Accelerator:
    """Accelerate for this process.

    accelerate keeps the first precision for ever; a second run in one process may want another.
    Without saying `cpu`, two launched CPU processes would each believe to be alone.
    """
    AcceleratorState._reset_state()
    accelerator = Accelerator(mixed_precision=precision, cpu=not torch.accelerator.is_available())
    if accelerator.num_processes == 1:
        asked = processes_asked_for()
        if asked > 1:
            warnings.warn(
                f"accelerate launch was asked for {asked} processes and started one: with --cpu it "
                "ignores the number. Take `distill show accelerate cpu2`, which says how",
                stacklevel=2,
            )
    return accelerator


def processes_asked_for() -> int:
    """What `--num_processes` of an `accelerate launch` above this process says; 1 without one."""
    try:
        launcher = psutil.Process().parent()
        words = launcher.cmdline() if launcher else []
    except psutil.Error:
        return 1
    if "launch" not in words or not any("accelerate" in word for word in words):
        return 1
    for word, after in zip(words, [*words[1:], ""], strict=True):
        name, _, value = word.partition("=")
        value = value or after
        if name in ("--num_processes", "--num-processes") and value.isdigit():
            return int(value)
    return 1


def compile_towers(student: Student) -> None:
    """Compile both encoders; `Module.compile` would reach `forward` alone, which nobody calls."""
    for name in _ENCODERS:
        setattr(student.module, name, torch.compile(getattr(student.module, name)))


def restore_towers(student: Student) -> None:
    """Undo `compile_towers`, so that the student can be copied, saved and exported."""
    for name in _ENCODERS:
        student.module.__dict__.pop(name, None)
