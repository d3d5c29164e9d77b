"""The arguments of the verbs that take a launcher."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeVar

if TYPE_CHECKING:
    from distill.launching.job import Job

Report = TypeVar("Report")


@dataclass(frozen=True, kw_only=True)
class LauncherArguments:
    """Who does the work.

    Attributes:
        launcher: in-process; processes: several here, a dead one is replaced; ray: a cluster.
            docs/launchers.md has these, accelerate and Slurm.
        workers: how many processes, by default one a GPU or core; or how many Ray workers are
            asked for at once, by default as many as the cluster has room for.
        address: of the Ray cluster; by default RAY_ADDRESS, else this machine alone.
        cpus_per_worker: what Ray sets aside for one.
        gpus_per_worker: the same; by default 1 where the device is cuda, else 0.
    """

    launcher: Literal["in-process", "processes", "ray"] = "in-process"
    workers: int | None = None
    address: str | None = None
    cpus_per_worker: float = 1.0
    gpus_per_worker: float | None = None

    def launch(self, job: "Job[Report]", *, retry_quarantined: bool, progress: bool) -> Report:
        """Do a job; raises as `launch` of `distill.launching` does."""
        from distill.launching import Cluster, launch

        gpus = float(self.launcher == "ray" and job.device.startswith("cuda"))
        return launch(
            job,
            self.launcher,
            workers=self.workers,
            cluster=Cluster(
                address=self.address,
                cpus=self.cpus_per_worker,
                gpus=gpus if self.gpus_per_worker is None else self.gpus_per_worker,
            ),
            retry_quarantined=retry_quarantined,
            progress=progress,
        )
