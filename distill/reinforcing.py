"""Stage 1 on several cores: the same `reinforce` in each process, rank being only an offset.

Every process would write the whole store alone; whoever commits a shard first saves the others
the work. What the demo and the ladder share, for teachers that are students' folders.
"""

import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch

from distill.doctor import usable_cores
from reinforced_data import ViewPolicy, reinforce
from students import load_student
from teachers import load_teacher
from teachers.teacher import Precision


@dataclass(frozen=True, kw_only=True)
class Reinforcement:
    """What to write.

    Attributes:
        source: folder of shards.
        store: the reinforced dataset.
        teachers: students' folders; none writes the views alone.
        precision: of the teachers' weights.
        num_views, policy: of the view set.
    """

    source: str
    store: Path
    teachers: Sequence[Path] = ()
    precision: Precision = "fp32"
    num_views: int = 4
    policy: ViewPolicy


def reinforce_side_by_side(work: Reinforcement, *, processes: int | None = None) -> dict[str, int]:
    """Write the store with one process a core; return skipped samples by reason."""
    processes = processes or max(1, int(usable_cores()))
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=processes, mp_context=context) as pool:
        jobs = [pool.submit(_reinforce, work, rank, processes) for rank in range(processes)]
        return [job.result() for job in jobs][-1]


def _reinforce(work: Reinforcement, rank: int, processes: int) -> dict[str, int]:
    """One process's turn; the environment says which part of the shards it begins with."""
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(processes))
    teachers = [
        load_teacher(load_student(folder), precision=work.precision) for folder in work.teachers
    ]
    report = reinforce(
        work.source,
        work.store,
        teachers=teachers,
        num_views=work.num_views,
        policy=work.policy,
        progress=False,
    )
    return report.skipped
