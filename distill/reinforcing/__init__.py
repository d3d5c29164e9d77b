"""Stage 1 by a launcher: in this process, in several that are watched over, on a Ray cluster.

All do the same: the store coordinates, a launcher only sees to it that workers are there
(docs/launchers.md). accelerate and Slurm need none of this: they start the command several times.
"""

from typing import Literal

from distill.reinforcing.processes import reinforce_in_processes
from distill.reinforcing.ray_cluster import Cluster
from distill.reinforcing.ray_driver import reinforce_on_ray
from distill.reinforcing.reinforcement import Reinforcement
from reinforced_data import ReinforceReport, reinforce

__all__ = ["Cluster", "Launcher", "Reinforcement", "launch"]

Launcher = Literal["in-process", "processes", "ray"]


def launch(
    work: Reinforcement,
    launcher: Launcher,
    *,
    workers: int | None = None,
    cluster: Cluster = Cluster(),  # noqa: B008 - frozen
    retry_quarantined: bool = False,
    progress: bool = True,
) -> ReinforceReport:
    """Write a reinforced dataset, or what is missing of it.

    Args:
        work: what to write.
        launcher: which.
        workers: of `processes`, how many: one a GPU, or a core, when None. Of `ray`, how many are
            asked for at once, which is what makes an autoscaler add machines; None: as many as
            the cluster has room for.
        cluster: where Ray's workers come from.
        retry_quarantined: see `reinforce`.
        progress: whether to draw a progress bar on stderr.

    Raises:
        ValueError: an argument of another launcher, Ray is not installed, or as `reinforce`.
        RuntimeError: workers die wherever they begin.
        Interrupted: told to stop; workers end after their batch, the same call goes on.
    """
    if workers is not None and (workers < 1 or launcher == "in-process"):
        raise ValueError(
            f"workers={workers}: takes a number from 1, and the launcher `processes` or `ray`"
        )
    if launcher != "ray" and cluster != Cluster():
        raise ValueError(f"{cluster} is for the launcher `ray`, not for `{launcher}`")
    if launcher == "ray":
        return reinforce_on_ray(
            work, cluster, workers, retry_quarantined=retry_quarantined, progress=progress
        )
    if launcher == "processes":
        return reinforce_in_processes(
            work, workers, retry_quarantined=retry_quarantined, progress=progress
        )
    teachers = work.load_teachers()
    return reinforce(
        work.source,
        work.out,
        teachers=teachers,
        retry_quarantined=retry_quarantined,
        progress=progress,
        **vars(work.settings_for(teachers)),
    )
