"""A real Ray cluster on this machine: actors killed, the driver killed, a shard that kills."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from distill.cli import main
from reinforced_data import ViewPolicy, audit, reinforce
from reinforced_data.testing import encoded, sample, tiny_teacher, write_source

SHARDS = 5
SCRIPT = """
import json, sys
from dataclasses import asdict
from distill.ray_launcher import Cluster, reinforce_on_ray
from distill.remote_work import RemoteWork
from reinforced_data import ViewPolicy
from reinforced_data.reinforce_work import ReinforceSettings

source, out, how = sys.argv[1:]

def teachers():
    # Made where it is called: classes of a script travel by value.
    import os, signal, time
    import torch
    from reinforced_data.testing import TinyEncoder, tiny_teacher

    torch.set_num_threads(1)

    class Module(TinyEncoder):
        def encode_image(self, images):
            if how == "slow":
                time.sleep(0.5)
            if how == "deadly" and (images.std(dim=(2, 3)).amax(1) < 1e-4).any():
                os.kill(os.getpid(), signal.SIGKILL)
            return super().encode_image(images)

    if how == "unloadable":
        os._exit(3)
    if how == "wrong":
        raise ValueError("there is no such teacher")
    return [tiny_teacher(module=Module())]

settings = ReinforceSettings(num_views=1, policy=ViewPolicy(num_ops=0), batch_size=4)
work = RemoteWork(source=source, out=out, teachers=teachers, settings=settings)
print(json.dumps(asdict(reinforce_on_ray(work, Cluster(cpus=1)))))
"""
needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="Ray is in the extra: clip-distill[cluster]"
)


@pytest.fixture
def place(tmp_path) -> Path:
    (tmp_path / "driver.py").write_text(SCRIPT)
    return tmp_path


def write_shards(folder: Path, *, poisoned: bool = False) -> str:
    from PIL import Image

    samples = [sample(number) for number in range(3 * SHARDS)]
    if poisoned:
        samples[7] = sample(7, png=encoded(Image.new("RGB", (24, 16), "white")))
    write_source(folder, samples, samples_per_shard=3)
    return str(folder)


def start(place: Path, source: str, how: str) -> subprocess.Popen:
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, str(place / "driver.py"), source, str(place / "out"), how]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=environment, start_new_session=True, **pipes)


def finish(driver: subprocess.Popen) -> tuple[int, str, str]:
    out, error = driver.communicate(timeout=900)
    return driver.returncode, out, error


def committed(out: Path) -> dict[str, str]:
    commits = [json.loads(path.read_text()) for path in sorted((out / "commits").rglob("*.json"))]
    return {f"{c['column']}/{c['shard']}": c["sha256"] for c in commits}


def calm(place: Path, source: str) -> dict[str, str]:
    settings = {"num_views": 1, "policy": ViewPolicy(num_ops=0), "batch_size": 4}
    reinforce(source, place / "calm", teachers=tiny_teacher(), progress=False, **settings)
    return committed(place / "calm")


def workers_at(out: Path) -> list[int]:
    records = [json.loads(path.read_text() or "{}") for path in out.glob("attempts/*.json")]
    return [record["pid"] for record in records if record]


def wait_until(condition) -> None:
    deadline = time.monotonic() + 600
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_without_ray_the_extra_is_named(tmp_path, monkeypatch, capsys):
    write_source(tmp_path / "source", 3)
    monkeypatch.setitem(sys.modules, "ray", None)
    command = ["reinforce", str(tmp_path / "source"), str(tmp_path / "out"), "--launcher", "ray"]
    assert main(command) == 2
    assert "pip install 'clip-distill[cluster]'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@needs_ray
@pytest.mark.slow
def test_an_actor_killed_then_the_driver_killed_and_run_again(place):
    source, out = write_shards(place / "source"), place / "out"
    driver = start(place, source, "slow")
    wait_until(lambda: workers_at(out) or driver.poll() is not None)
    os.kill(workers_at(out)[0], signal.SIGKILL)
    # Another takes its place and the work goes on.
    wait_until(lambda: len(committed(out)) >= 10 or driver.poll() is not None)
    assert driver.poll() is None, finish(driver)
    driver.kill()
    finish(driver)
    before = committed(out)
    assert len(before) < 5 * SHARDS
    code, said, error = finish(start(place, source, "slow"))
    assert code == 0, error
    report = json.loads(said.splitlines()[-1])
    assert report["shards"] == SHARDS and not report["quarantined"]
    assert committed(out) == calm(place, source) and before.items() <= committed(out).items()
    assert audit(out, teachers=tiny_teacher()).problems == ()
    assert not (out / "attempts").exists()


@needs_ray
@pytest.mark.slow
def test_a_shard_that_kills_costs_three_actors(place):
    source = write_shards(place / "source", poisoned=True)
    code, said, error = finish(start(place, source, "deadly"))
    assert code == 0, error
    report = json.loads(said.splitlines()[-1])
    assert list(report["quarantined"]) == [f"{source}/00002.tar"]
    assert report["shards"] == SHARDS - 1 and "the Ray worker died" in str(report["quarantined"])
    assert "3 died" in error


@needs_ray
@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "said"),
    [("unloadable", "it is not a shard"), ("wrong", "ValueError: there is no such teacher")],
)
def test_workers_that_cannot_begin_are_not_replaced_for_ever(place, how, said):
    code, _, error = finish(start(place, write_shards(place / "source"), how))
    assert code == 1 and said in error


@needs_ray
@pytest.mark.slow
def test_ctrl_c_ends_after_the_batch_and_the_same_call_goes_on(place):
    source, out = write_shards(place / "source"), place / "out"
    driver = start(place, source, "slow")
    wait_until(lambda: workers_at(out) or driver.poll() is not None)
    driver.send_signal(signal.SIGINT)
    code, _, error = finish(driver)
    assert code != 0 and "stopped by SIGINT" in error and "the same command goes on" in error
    assert not workers_at(out), "nobody is taken for dead"
    assert finish(start(place, source, "calm"))[0] == 0
    assert committed(out) == calm(place, source)
