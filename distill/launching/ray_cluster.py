"""Ray, found or started: a cluster that is there, or one of this machine that leaves nothing.

Ray (`clip-distill[cluster]`) is imported when it is asked for. What Ray writes for a cluster of
this machine (logs, sockets) goes into a folder of ours in the temporary folder; it goes with the
cluster, or, where the driver was killed, with the next call.
"""

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from distill.doctor import usable_cores

_PREFIX = "distill-ray-"
# Nothing travels through Ray's object store but a shard's number and what became of it.
_OBJECT_STORE_BYTES = 100_000_000
# Ray puts sockets into its folder, and the system allows their paths 107 bytes.
_LONGEST_FOLDER = 20
# See `_start` and `_own_folder`.
_STARTS = 3
_GONE_SECONDS = 10.0


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Where the workers come from.

    Attributes:
        address: of a cluster, or `auto` for the one that this machine is part of. None takes
            RAY_ADDRESS; without it Ray runs on this machine for as long as the work does.
        cpus: CPUs of a worker.
        gpus: GPUs of a worker; a half lets two share one.
    """

    address: str | None = None
    cpus: float = 1.0
    gpus: float = 0.0

    def __post_init__(self) -> None:
        """Refuse a worker of nothing."""
        if self.cpus <= 0 or self.gpus < 0:
            raise ValueError(f"a worker needs CPUs, got cpus={self.cpus}, gpus={self.gpus}")

    def wishes(self) -> dict[str, float]:
        """What a worker needs, by Ray's names."""
        return {"CPU": self.cpus} | ({"GPU": self.gpus} if self.gpus else {})


@contextmanager
def connected(cluster: Cluster) -> Iterator[Any]:
    """Give the module `ray`, connected; a cluster that was connected before stays so.

    Raises:
        ValueError: Ray is not installed, there is no cluster at the address, or this machine has
            no room for a worker.
    """
    ray = _import_ray()
    if ray.is_initialized():
        yield ray
        return
    address = cluster.address or os.environ.get("RAY_ADDRESS")
    quiet = {"log_to_driver": _debugging(), "logging_level": "error"}
    with _own_folder() as folder:
        try:
            if address:
                _connect(ray, address, quiet)
            else:
                _start(ray, folder, quiet)
                _check_room(ray, cluster)
            yield ray
        finally:
            ray.shutdown()


def this_node() -> str:
    """Return Ray's name of the machine that an actor runs on."""
    return _import_ray().get_runtime_context().get_node_id()


def gone_nodes(ray: Any) -> set[str]:
    """Return the machines that Ray has had and has no more."""
    return {node["NodeID"] for node in ray.nodes() if not node["Alive"]}


def _connect(ray: Any, address: str, quiet: dict[str, Any]) -> None:
    try:
        ray.init(address=address, **quiet)
    except ConnectionError as error:
        raise ValueError(
            f"there is no Ray cluster at {address!r}: start one (`ray start --head`), or leave "
            "--address out to run on this machine alone. A cluster that asks for a token (what "
            "`ray start` does where the machine has one) needs RAY_AUTH_MODE=token here too, "
            f"unless the address is `auto`. Ray says: {error}"
        ) from error


def _start(ray: Any, folder: str, quiet: dict[str, Any]) -> None:
    """Start Ray here. It gives itself 30 s, which a busy machine may not have."""
    room = {"num_cpus": _cores(), "object_store_memory": _OBJECT_STORE_BYTES}
    for attempt in range(_STARTS):
        try:
            ray.init(address="local", _temp_dir=folder, include_dashboard=False, **room, **quiet)
            return
        except Exception as error:  # Ray raises nothing more precise
            ray.shutdown()
            if "timed out" not in str(error) or attempt + 1 == _STARTS:
                raise


def _debugging() -> bool:
    return bool(os.environ.get("DISTILL_DEBUG"))


def _cores() -> int:
    return max(1, int(usable_cores()))


def workers_with_room(ray: Any, cluster: Cluster) -> int:
    """How many workers the cluster's machines could hold if nobody else used them."""
    found = ray.cluster_resources()
    return min(int(found.get(name, 0) / amount) for name, amount in cluster.wishes().items())


def _import_ray() -> Any:
    # Ray would send statistics home, and would hide GPUs from workers that ask for none.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if not _debugging():
        # A paragraph on stdout for each death, of which the bar has a line.
        os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", "worker died or was|marked dead")
    try:
        import ray
    except ImportError as error:
        raise ValueError(
            "--launcher ray needs Ray, which is not installed: pip install 'clip-distill[cluster]'"
        ) from error
    return ray


def _check_room(ray: Any, cluster: Cluster) -> None:
    if not workers_with_room(ray, cluster):
        there = {name: ray.cluster_resources().get(name, 0) for name in ("CPU", "GPU")}
        raise ValueError(
            f"a worker asks for {cluster.wishes()}, and this machine has {there}: change "
            "--cpus-per-worker or --gpus-per-worker, or give the --address of a cluster"
        )


@contextmanager
def _own_folder() -> Iterator[str]:
    """Make a folder that Ray may fill; remove it, and those of drivers that were killed."""
    usual = tempfile.gettempdir()
    root = Path(usual if len(usual) <= _LONGEST_FOLDER else "/tmp")
    for left in root.glob(f"{_PREFIX}*-*"):
        pid = left.name.removeprefix(_PREFIX).partition("-")[0]
        if pid.isdigit() and not psutil.pid_exists(int(pid)):
            shutil.rmtree(left, ignore_errors=True)
    folder = tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=root)
    try:
        yield folder
    finally:
        deadline = time.monotonic() + _GONE_SECONDS
        while os.path.exists(folder) and time.monotonic() < deadline:
            shutil.rmtree(folder, ignore_errors=True)  # the last of Ray may still write to it
            time.sleep(0.05)
