"""Work on a store by a launcher: in this process, in several, on a Ray cluster.

All do the same: the store coordinates, a launcher only sees to it that workers are there
(docs/launchers.md). accelerate and Slurm need none of this: they start the command several times.
"""

import time
from typing import Literal

from distill.launching.captioning import Captioning
from distill.launching.job import Job, Report
from distill.launching.processes import launch_in_processes
from distill.launching.ray_cluster import Cluster
from distill.launching.ray_driver import launch_on_ray
from distill.launching.reinforcement import Reinforcement
from reinforced_data.in_process import work_here

__all__ = ["Captioning", "Cluster", "Launcher", "Reinforcement", "launch"]

Launcher = Literal["in-process", "processes", "ray"]


def launch(
    job: Job[Report],
    launcher: Launcher,
    *,
    workers: int | None = None,
    cluster: Cluster = Cluster(),  # noqa: B008 - frozen
    retry_quarantined: bool = False,
    progress: bool = True,
) -> Report:
    """Do a job, or what is missing of it.

    Args:
        job: what to do: a `Reinforcement` or a `Captioning`.
        launcher: which.
        workers: of `processes`, how many: one a GPU, or a core, when None. Of `ray`, how many are
            asked for at once, which is what makes an autoscaler add machines; None: as many as
            the cluster has room for.
        cluster: where Ray's workers come from.
        retry_quarantined: see `reinforce`.
        progress: whether to draw a progress bar on stderr.

    Returns:
        What `reinforce` or `caption` returns; counted are all workers' doings, of one that died
        those it lived to tell.

    Raises:
        ValueError: an argument of another launcher, Ray is not installed, or as `reinforce` or
            `caption`.
        RuntimeError: workers die wherever they begin.
        Interrupted: told to stop; workers end after their batch, the same call goes on.
    """
    if workers is not None and (workers < 1 or launcher == "in-process"):
        raise ValueError(
            f"workers={workers}: takes a number from 1, and the launcher `processes` or `ray`"
        )
    if launcher != "ray" and cluster != Cluster():
        raise ValueError(f"{cluster} is for the launcher `ray`, not for `{launcher}`")
    how = {"retry_quarantined": retry_quarantined, "progress": progress}
    if launcher == "ray":
        return launch_on_ray(job, cluster, workers, **how)
    if launcher == "processes":
        return launch_in_processes(job, workers, **how)
    started = time.perf_counter()
    work = job.make()
    already, walked = work_here(work, job.verb, **how)
    return job.conclude(work.store, work.columns, already=already, walked=walked, started=started)
