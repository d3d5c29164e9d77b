"""Which of several processes this is, as torchrun, accelerate and Slurm say in the environment.

In stage 1 a number is only an offset: it says where in the list of shards a process begins, and a
process that never starts is missed by nobody. So nothing is checked against the other processes.
"""

import os
from collections.abc import Mapping

import torch


def rank_and_world_size(environment: Mapping[str, str] | None = None) -> tuple[int, int]:
    """Return this process's number and how many there are.

    RANK and WORLD_SIZE (torchrun, accelerate), else SLURM_PROCID and SLURM_NTASKS (srun); of a
    Slurm array, each task has all of those.

    Raises:
        ValueError: a variable holds something else than a number.
    """
    found = os.environ if environment is None else environment
    rank, world_size = _number(found, "RANK"), _number(found, "WORLD_SIZE")
    if rank is None or world_size is None:
        rank, world_size = _number(found, "SLURM_PROCID"), _number(found, "SLURM_NTASKS")
    rank, world_size = rank or 0, max(world_size or 1, (rank or 0) + 1)
    task, tasks = _array_task(found)
    return task * world_size + rank, tasks * world_size


def own_device(device: str, environment: Mapping[str, str] | None = None) -> str:
    """Return the GPU of this process when `device` is plain "cuda"; else `device`.

    By LOCAL_RANK, else SLURM_LOCALID; a process that is shown one GPU takes that one.
    """
    found = os.environ if environment is None else environment
    rank = _number(found, "LOCAL_RANK")
    rank = _number(found, "SLURM_LOCALID") if rank is None else rank
    if device != "cuda" or rank is None:
        return device
    return f"cuda:{rank % max(1, torch.cuda.device_count())}"


def processes_here(environment: Mapping[str, str] | None = None) -> int:
    """Return how many processes the launcher has started on this machine.

    LOCAL_WORLD_SIZE (torchrun, accelerate, `--launcher processes`). Slurm's are not counted: it
    binds each task to cores of its own.
    """
    found = os.environ if environment is None else environment
    return max(1, _number(found, "LOCAL_WORLD_SIZE") or 1)


def _array_task(environment: Mapping[str, str]) -> tuple[int, int]:
    task = _number(environment, "SLURM_ARRAY_TASK_ID")
    if task is None:
        return 0, 1
    first = _number(environment, "SLURM_ARRAY_TASK_MIN") or 0
    step = max(1, _number(environment, "SLURM_ARRAY_TASK_STEP") or 1)
    place = (task - first) // step
    return place, max(_number(environment, "SLURM_ARRAY_TASK_COUNT") or 1, place + 1)


def _number(environment: Mapping[str, str], name: str) -> int | None:
    text = environment.get(name, "")
    if not text:
        return None
    if not text.isdigit():
        raise ValueError(f"the environment has {name}={text!r}, which is no number: unset it")
    return int(text)
