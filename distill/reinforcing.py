"""Stage 1 on several cores: the same `reinforce` in each process, rank being only an offset.

Every process would write the whole store alone; whoever commits a shard first saves the others
the work. What the demo and the ladder share, for teachers that are students' folders.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console

from distill.doctor import usable_cores
from distill.worker_processes import Died, run_each
from reinforced_data import ViewPolicy, reinforce
from reinforced_data.store.progress import store_progress
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
        codec: how embeddings are stored.
        attention: the name of the teacher whose attention is kept too.
    """

    source: str
    store: Path
    teachers: Sequence[Path] = ()
    precision: Precision = "fp32"
    num_views: int = 4
    policy: ViewPolicy
    codec: str = "float16"
    attention: str | None = None


def reinforce_side_by_side(
    work: Reinforcement, *, processes: int | None = None, console: Console
) -> dict[str, int]:
    """Write the store with one process a core; return skipped samples by reason.

    Args:
        work: what to write.
        processes: how many; one a core when None.
        console: told of a process that died; the others have done its part.

    Raises:
        RuntimeError: every process died.
        Whatever one of them raised; what is committed is whole.
    """
    processes = processes or max(1, int(usable_cores()))
    outcomes = run_each(_reinforce, [(work, rank, processes) for rank in range(processes)])
    whole = [skipped for skipped in outcomes if not isinstance(skipped, Died)]
    codes = ", ".join(str(died.exit_code) for died in outcomes if isinstance(died, Died))
    if not whole:
        raise RuntimeError(
            f"all {processes} processes that reinforced {work.store} died (exit codes {codes}; "
            "-9 is often the system's, out of memory): the same call goes on, with fewer "
            "`processes` it needs less memory"
        )
    if codes:
        console.print(f"  processes died (exit codes {codes}); the others have done their part")
    # Each process has told what it saw when it ended; some of the others were still at work.
    return store_progress(work.store).skipped


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
        codec=work.codec,
        attention=work.attention,
        progress=False,
    )
    return report.skipped
