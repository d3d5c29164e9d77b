"""How many cores this process may use; those of the machine are often shared out."""

import os
from pathlib import Path

from reinforced_data.ranks import processes_here

_CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def usable_cores() -> float:
    """Cores by affinity and by the container's quota, not those of the machine."""
    allowed = getattr(os, "sched_getaffinity", None)
    cores = float(len(allowed(0)) if allowed else os.cpu_count() or 1)
    if _CPU_QUOTA.is_file():
        limit, period = _CPU_QUOTA.read_text().split()
        cores = cores if limit == "max" else min(cores, int(limit) / int(period))
    return cores


def own_cores(most: int) -> int:
    """This process's share of them beside the launcher's others here; at least 1."""
    return max(1, min(most, int(usable_cores() / processes_here())))
