"""A real Ray on this machine: workers, actors, machines and the driver are killed."""

import importlib.util
import json
import os
import signal
import sys
import tempfile
import threading
from pathlib import Path

import psutil
import pytest

from distill.cli import main
from distill.launching import Cluster, Reinforcement, launch
from distill.launching.ray_worker import ShardWorker
from distill.testing import start
from reinforced_data import ViewPolicy, audit
from reinforced_data.reinforce_work import ReinforceSettings
from reinforced_data.testing import contents, pids_at, wait_until, write_source

MORE = ("--launcher", "ray", "--json")
needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="Ray is in the extra: clip-distill[cluster]"
)


def run(arguments: list[str], said: Path) -> None:
    os.setpgrp()  # as a shell starts it
    os.environ.pop("RAY_ADDRESS", None)
    sys.stdout, sys.stderr = said.open("w"), said.with_suffix(".err").open("w")
    code = main(arguments)
    sys.stdout.close()
    sys.exit(code)


def folders_of(pid: int) -> list[Path]:
    return list(Path(tempfile.gettempdir()).glob(f"distill-ray-{pid}-*"))


@needs_ray
def test_a_killed_ray_worker_is_replaced_and_the_store_is_that_of_one(damaged_world, tmp_path):
    out, said = tmp_path / "out", tmp_path / "said.json"
    driver = start(run, damaged_world.command(out, *MORE, "--workers", "1"), said)
    wait_until(lambda: pids_at(out) or not driver.is_alive())
    assert driver.is_alive(), said.with_suffix(".err").read_text()
    assert folders_of(driver.pid)
    (killed,) = {pid for pids in pids_at(out).values() for pid in pids}
    os.kill(killed, signal.SIGKILL)
    driver.join(900)
    assert driver.exitcode == 3, said.with_suffix(".err").read_text()
    report = json.loads(said.read_text())
    assert report["skipped"] == {"not-an-image": 1, "bad-text": 1} and report["shards"] == 8
    assert contents(out) == damaged_world.calm and not pids_at(out)
    assert not folders_of(driver.pid), "Ray's files went with it"


def test_without_ray_the_extra_is_named(tmp_path, monkeypatch, capsys):
    write_source(tmp_path / "source", 3)
    monkeypatch.setitem(sys.modules, "ray", None)
    command = ["reinforce", str(tmp_path / "source"), str(tmp_path / "out"), "--launcher", "ray"]
    assert main(command) == 2
    assert "pip install 'clip-distill[cluster]'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_worker_that_does_not_see_the_store_says_so(tmp_path):
    """On another machine a local path names nothing, and would be made anew there."""
    write_source(tmp_path / "source", 3)
    asked = Reinforcement(source=str(tmp_path / "source"), out=str(tmp_path / "elsewhere"))
    with pytest.raises(ValueError, match="where every machine sees it"):
        ShardWorker("ray-1", asked).begin()
    assert not (tmp_path / "elsewhere").exists()


@needs_ray
@pytest.mark.slow
def test_a_killed_driver_leaves_nobody_and_the_same_command_goes_on(launcher_world, tmp_path):
    out, said = tmp_path / "out", tmp_path / "said.json"
    arguments = launcher_world.command(out, *MORE, "--workers", "1")
    driver = start(run, arguments, said)
    wait_until(lambda: len(contents(out)) > 8 or not driver.is_alive())
    everybody = psutil.Process(driver.pid).children(recursive=True)
    driver.kill()
    driver.join()
    assert psutil.wait_procs(everybody, timeout=300)[1] == []
    assert contents(out).items() < launcher_world.calm.items() and folders_of(driver.pid)
    again = start(run, arguments, said)
    again.join(900)
    assert again.exitcode == 0, said.with_suffix(".err").read_text()
    assert contents(out) == launcher_world.calm and audit(out).problems == ()
    assert not pids_at(out)
    assert not folders_of(driver.pid), "what the killed left went with the next"
    assert not folders_of(again.pid)


@needs_ray
@pytest.mark.slow
def test_a_shard_that_kills_costs_three_ray_workers_and_ends_with_3(
    launcher_world, tmp_path, killer_of
):
    out, said = tmp_path / "out", tmp_path / "said.json"
    name = f"{launcher_world.source}/00002.tar"
    with killer_of(out, shard=2) as killer:
        driver = start(run, launcher_world.command(out, *MORE, "--workers", "1"), said)
        driver.join(900)
    assert driver.exitcode == 3, said.with_suffix(".err").read_text()
    report = json.loads(said.read_text())
    assert list(report["quarantined"]) == [name] and report["shards"] == 7
    assert len(killer.killed) == 3 and "the Ray worker died" in report["quarantined"][name]
    assert launcher_world.equals_but_for(2, out)


@needs_ray
@pytest.mark.slow
def test_ctrl_c_with_ray_ends_after_the_batch_and_the_same_command_goes_on(
    launcher_world, tmp_path
):
    out, said = tmp_path / "out", tmp_path / "said.json"
    arguments = launcher_world.command(out, "--launcher", "ray", "--workers", "1")
    driver = start(run, arguments, said)
    wait_until(lambda: pids_at(out) or not driver.is_alive())
    everybody = psutil.Process(driver.pid).children(recursive=True)
    os.killpg(driver.pid, signal.SIGINT)
    driver.join(900)
    error = said.with_suffix(".err").read_text()
    assert driver.exitcode == 130, error
    assert "stopped by SIGINT with" in error and "the same command goes on" in error
    assert psutil.wait_procs(everybody, timeout=300)[1] == []
    assert not pids_at(out), "nobody is taken for dead"
    assert not folders_of(driver.pid)
    again = start(run, arguments, said)
    again.join(900)
    assert again.exitcode == 0 and contents(out) == launcher_world.calm


def asked_of(world, out: Path) -> Reinforcement:
    settings = ReinforceSettings(num_views=12, policy=ViewPolicy(num_ops=0))
    return Reinforcement(
        source=world.source, out=str(out), teachers=[world.teacher], settings=settings
    )


def names_at(out: Path) -> set[str]:
    return {json.loads(path.read_text())["worker"] for path in out.glob("attempts/*.json")}


def run_and_kill_an_actor(world, out: Path, folder: str, said: Path) -> None:
    """A driver that is connected already, and somebody who kills an actor through Ray."""
    import ray

    ray.init(address="local", num_cpus=2, include_dashboard=False, _temp_dir=folder)

    def kill() -> None:
        wait_until(lambda: pids_at(out))
        ray.kill(ray.get_actor(names_at(out).pop()))

    threading.Thread(target=kill, daemon=True).start()
    report = launch(asked_of(world, out), "ray", workers=2, progress=False)
    assert ray.is_initialized(), "what was connected stays so"
    ray.shutdown()
    said.write_text(json.dumps(report.quarantined))


def run_and_kill_a_machine(
    world, out: Path, folder: str, said: Path, *, first: bool = True
) -> None:
    """Two machines as Ray sees it, each with a node of its own; one is taken away."""
    from ray.cluster_utils import Cluster as Machines

    machines = Machines(initialize_head=True, head_node_args={"num_cpus": 0, "temp_dir": folder})
    for _ in range(2):
        add_machine(machines)

    def kill() -> None:
        wait_until(lambda: pids_at(out))
        (pid,) = next(iter(pids_at(out).values()))
        machine = psutil.Process(pid).parent()
        assert machine is not None
        # The one that goes second stays until Ray has heard of the other.
        if first:
            os.kill(pid, signal.SIGSTOP)
            machine.kill()
        else:
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: "died: ray-" in said.with_suffix(".err").read_text())
        if first:
            os.kill(pid, signal.SIGKILL)
        else:
            machine.kill()

    where = Cluster(address=machines.address)
    sys.stderr = said.with_suffix(".err").open("w", buffering=1)
    threading.Thread(target=kill, daemon=True).start()
    report = launch(asked_of(world, out), "ray", workers=1, cluster=where)
    said.write_text(json.dumps(report.quarantined))
    sys.stderr.flush()
    machines.shutdown()


def add_machine(machines) -> None:
    """Ray gives a machine 30 seconds to begin, which a busy one may not have."""
    for attempt in range(4):
        try:
            machines.add_node(num_cpus=1)
            return
        except Exception as error:  # Ray raises nothing more precise
            if "timed out" not in str(error) or attempt == 3:
                raise


def run_and_kill_a_worker_and_then_its_machine(world, out: Path, folder: str, said: Path) -> None:
    """A machine on its way out ends its processes before Ray hears of it."""
    run_and_kill_a_machine(world, out, folder, said, first=False)


@needs_ray
@pytest.mark.slow
@pytest.mark.parametrize(
    ("kill", "says"),
    [
        (run_and_kill_an_actor, ""),
        (run_and_kill_a_machine, "with its machine; its shard goes to another"),
        (run_and_kill_a_worker_and_then_its_machine, "its machine went too"),
    ],
)
def test_an_actor_or_a_machine_that_goes_is_survived(launcher_world, tmp_path, kill, says):
    out, said = tmp_path / "out", tmp_path / "said.json"
    with tempfile.TemporaryDirectory(prefix="ray-") as folder:
        driver = start(kill, launcher_world, out, folder, said)
        driver.join(900)
    assert driver.exitcode == 0 and json.loads(said.read_text()) == {}
    assert contents(out) == launcher_world.calm and not pids_at(out)
    if says:
        # The bar wraps its lines.
        assert says in " ".join(said.with_suffix(".err").read_text().split())


def at_the_door() -> list:
    os._exit(3)


@needs_ray
@pytest.mark.slow
@pytest.mark.parametrize(
    ("teachers", "kind", "said"),
    [(at_the_door, RuntimeError, "it is not a shard"), (["nobody"], ValueError, "nobody")],
)
def test_ray_workers_that_cannot_begin_are_not_replaced_for_ever(tmp_path, teachers, kind, said):
    write_source(tmp_path / "source", 6)
    work = Reinforcement(
        source=str(tmp_path / "source"), out=str(tmp_path / "out"), teachers=teachers
    )
    with pytest.raises(kind, match=said):
        launch(work, "ray", workers=1, progress=False)
