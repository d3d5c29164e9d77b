"""A source, a teacher's folder and the store of one calm process, for the tests of launchers."""

import os
import signal
import threading
from dataclasses import dataclass
from pathlib import Path

import pytest

from reinforced_data import ViewPolicy, reinforce
from reinforced_data.testing import contents, pids_at, sample, write_source
from students import StudentSpec, TextSpec, build_student, load_student
from teachers import load_teacher

SHARDS = 8
VIEWS = 12


@dataclass(frozen=True)
class LauncherWorld:
    """What the launchers' tests share; `calm` is what every store has to equal."""

    source: str
    teacher: str
    calm: dict[str, tuple[object, ...]]

    def command(self, out: Path, *more: str) -> list[str]:
        """The arguments of `distill` that write the store, less what says who does."""
        views = ("--num-views", str(VIEWS), "--policy.num-ops", "0")
        return ["reinforce", self.source, str(out), "--teachers", self.teacher, *views, *more]

    def equals_but_for(self, shard: int, store: Path) -> bool:
        """Whether a store is the calm one, of one shard perhaps less than all."""
        found = contents(store).items()
        others = {unit: c for unit, c in self.calm.items() if not unit.endswith(f"/{shard}")}
        return others.items() <= found < self.calm.items()


def make_world(folder: Path, *, damaged: bool) -> LauncherWorld:
    samples = [sample(number) for number in range(16 * SHARDS)]
    if damaged:
        samples[5] = sample(5, png=b"no picture")
        samples[40] = sample(40, txt=b"\xff\xfe\xfa")
    write_source(folder / "source", samples, samples_per_shard=16)
    text = TextSpec(width=16, layers=1, heads=2, context_length=8)
    spec = StudentSpec(image="smallconv-8", text=text, embed_dim=16, image_size=32)
    build_student(spec).save(folder / "teacher")
    reinforce(
        str(folder / "source"),
        folder / "calm",
        teachers=load_teacher(load_student(folder / "teacher"), precision="fp32"),
        num_views=VIEWS,
        policy=ViewPolicy(num_ops=0),
        progress=False,
    )
    teacher = str(folder / "teacher")
    return LauncherWorld(str(folder / "source"), teacher, contents(folder / "calm"))


@pytest.fixture(scope="session")
def launcher_world(tmp_path_factory) -> LauncherWorld:
    return make_world(tmp_path_factory.mktemp("launcher-world"), damaged=False)


@pytest.fixture(scope="session")
def damaged_world(tmp_path_factory) -> LauncherWorld:
    return make_world(tmp_path_factory.mktemp("damaged-world"), damaged=True)


class Killer(threading.Thread):
    """SIGKILLs whoever begins a shard; a context manager.

    Attributes:
        killed: process numbers.
    """

    def __init__(self, out: Path, shard: int) -> None:
        super().__init__(daemon=True)
        self.killed: list[int] = []
        self._out, self._shard, self._ended = out, shard, threading.Event()

    def run(self) -> None:
        while not self._ended.wait(0.002):
            for pid in pids_at(self._out).get(self._shard, set()) - set(self.killed):
                os.kill(pid, signal.SIGKILL)
                self.killed.append(pid)

    def __enter__(self) -> "Killer":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self.join()


@pytest.fixture
def killer_of():
    return Killer
