"""A shard that kills whoever reads it costs three workers; then it is named and left alone."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor

from distill.cli import main
from distill.testing import end, start
from reinforced_data import ViewPolicy, caption, reinforce
from reinforced_data.store.attempts import Attempts
from reinforced_data.store.progress import store_progress
from reinforced_data.store.storage import Storage
from reinforced_data.testing import TinyEncoder, encoded, sample, tiny_teacher, write_source

SETTINGS = {
    "num_views": 1,
    "policy": ViewPolicy(num_ops=0),
    "batch_size": 4,
    "progress": False,
}
ARGUMENTS = ("--teachers", "t", "--num-views", "1", "--policy.num-ops", "0", "--json")
POISONED = 2
JOB = "0a1b2c3d"


def is_white(images: Tensor) -> bool:
    """Whether one of them is of one colour, as crops of white are."""
    return bool((images.std(dim=(2, 3)).amax(1) < 1e-4).any())


class Dies(TinyEncoder):
    """SIGKILLs its own process when it sees a picture that is all white."""

    def encode_image(self, images: Tensor, /) -> Tensor:
        if is_white(images):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().encode_image(images)


class Raises(TinyEncoder):
    """The same, as an error that nobody foresaw."""

    def encode_image(self, images: Tensor, /) -> Tensor:
        if is_white(images):
            raise RuntimeError("device-side assert")
        return super().encode_image(images)


def write_poisoned(folder: Path) -> str:
    """Five shards of three; one sample of shard 2 is white."""
    from PIL import Image

    samples = [sample(number) for number in range(15)]
    samples[7] = sample(7, png=encoded(Image.new("RGB", (24, 16), "white")))
    write_source(folder, samples, samples_per_shard=3)
    return str(folder)


def command(source: str, out: str, said: str, module: str, *more: str) -> None:
    """The command itself, with a teacher that no command line could name."""
    import distill.model_loading

    torch.set_num_threads(1)
    teacher = tiny_teacher(module={"dies": Dies, "calm": TinyEncoder, "raises": Raises}[module]())
    distill.model_loading.load_frozen = lambda *_: teacher
    sys.stdout = open(said, "w")  # noqa: SIM115 - the process's own, to its end
    code = main(["reinforce", source, out, *ARGUMENTS, *more])
    sys.stdout.close()
    os._exit(code)


def committed(out: Path) -> dict[str, str]:
    commits = [json.loads(path.read_text()) for path in sorted((out / "commits").rglob("*.json"))]
    return {f"{c['column']}/{c['shard']}": c["sha256"] for c in commits}


def embedded(out: Path) -> set[str]:
    """The shards of which the teacher has seen the pictures."""
    return {name.split("/")[1] for name in committed(out) if name.startswith("image")}


def test_three_deaths_quarantine_a_shard(tmp_path, capsys):
    source, out, said = write_poisoned(tmp_path / "source"), tmp_path / "out", tmp_path / "said"
    run = (command, source, str(out), str(said))
    assert [end(start(*run, "dies")) for _ in range(3)] == [-signal.SIGKILL] * 3
    # The first died in its turn; the others had done what there was before they came to it.
    assert embedded(out) == {"0", "1", "3", "4"}
    assert end(start(*run, "dies")) == 3
    report = json.loads(said.read_text())
    name = f"{source}/{POISONED:05d}.tar"
    assert list(report["quarantined"]) == [name] and report["shards"] == 4
    text = report["quarantined"][name]
    assert "3 workers died at it" in text and "--retry-quarantined" in text
    assert list(store_progress(out).quarantined) == [name]
    assert main(["status", str(out)]) == 0
    assert f"{name} is quarantined" in capsys.readouterr().out
    # Tried again by somebody who does not die of it, it is a store like any other.
    assert end(start(*run, "calm", "--retry-quarantined")) == 0
    assert not (out / "attempts").exists()
    reinforce(source, tmp_path / "calm", teachers=tiny_teacher(), **SETTINGS)
    assert committed(out) == committed(tmp_path / "calm")


def test_many_workers_lose_three_of_theirs(tmp_path):
    source, out = write_poisoned(tmp_path / "source"), tmp_path / "out"
    run = (command, source, str(out))
    all_at_once = [start(*run, str(tmp_path / f"said-{n}"), "dies") for n in range(6)]
    codes = sorted(end(process) for process in all_at_once)
    assert codes == [-signal.SIGKILL] * 3 + [3] * 3
    assert embedded(out) == {"0", "1", "3", "4"}


def test_an_error_that_nobody_foresaw_counts_as_a_death(tmp_path):
    source, out = write_poisoned(tmp_path / "source"), tmp_path / "out"
    teacher = tiny_teacher(module=Raises())
    for _ in range(3):
        with pytest.raises(RuntimeError, match="device-side assert"):
            reinforce(source, out, teachers=teacher, **SETTINGS)
    (text,) = reinforce(source, out, teachers=teacher, **SETTINGS).quarantined.values()
    assert text.count("RuntimeError: device-side assert") == 3


def test_a_worker_elsewhere_is_dead_after_ten_minutes_of_silence(tmp_path):
    storage = Storage(tmp_path)
    place = Attempts(storage, JOB).take(7)
    assert place is not None
    path = tmp_path / "attempts" / f"00007.{JOB}.0.json"
    record = json.loads(path.read_text())
    (attempt,) = Attempts(storage, JOB).of(7)
    assert not attempt.dead
    for machine, silence, dead in (("there", 540, False), ("there", 660, True)):
        changed = {**record, "machine": machine, "sign": time.time() - silence}
        path.write_text(json.dumps(changed))
        (attempt,) = Attempts(storage, JOB).of(7)
        assert attempt.dead == dead
    # Here the process itself is looked at, whatever the clock says.
    path.write_text(json.dumps({**record, "sign": 0.0}))
    assert not Attempts(storage, JOB).of(7)[0].dead
    path.write_text(json.dumps({**record, "born": record["born"] - 100}))
    assert Attempts(storage, JOB).of(7)[0].dead, "another process has its number"
    with subprocess.Popen(["true"]) as gone:
        gone.wait()
    path.write_text(json.dumps({**record, "pid": gone.pid}))
    assert Attempts(storage, JOB).of(7)[0].dead


def test_a_death_that_was_the_machines_is_taken_back_and_an_error_of_its_own_stays(tmp_path):
    storage = Storage(str(tmp_path))
    attempts = Attempts(storage, JOB)
    for number in range(3):
        assert Attempts(storage, JOB, f"ray-{number}").take(POISONED) is not None
        attempts.declare_dead(f"ray-{number}", "the Ray worker died")
    assert list(attempts.quarantined()) == [POISONED]
    attempts.withdraw("ray-0", "another reason")
    assert list(attempts.quarantined()) == [POISONED]
    attempts.withdraw("ray-1", "the Ray worker died")
    assert attempts.quarantined() == {}
    assert {one.worker for one in attempts.of(POISONED)} == {"ray-0", "ray-2"}


def test_each_job_counts_its_own_deaths(tmp_path):
    storage = Storage(str(tmp_path))
    captions, teacher = Attempts(storage, JOB, "worker"), Attempts(storage, "4e5f6071", "worker")
    for job, deaths in ((captions, 3), (teacher, 1)):
        for _ in range(deaths):
            assert job.take(POISONED) is not None
        job.declare_dead("worker", "gone")
    assert list(captions.quarantined()) == [POISONED] and teacher.quarantined() == {}
    teacher.forget_the_dead([POISONED])
    assert teacher.all() == {} and list(captions.quarantined()) == [POISONED]
    # Records of an earlier release say no job: they count for all.
    for path in (tmp_path / "attempts").iterdir():
        record = json.loads(path.read_text())
        del record["job"]
        path.with_name(path.name.replace(f".{JOB}", "")).write_text(json.dumps(record))
        path.unlink()
    assert list(captions.quarantined()) == list(teacher.quarantined()) == [POISONED]
    began = min(attempt.began for attempt in teacher.of(POISONED))
    teacher.forget_the_dead([POISONED], began_before=began)
    assert list(teacher.quarantined()) == [POISONED]
    teacher.forget_the_dead([POISONED])
    assert captions.all() == {}


class FailsAt:
    """A captioner with an error that nobody foresaw at one sample."""

    name, licence, needs_image = "fails", None, False
    fingerprint = hashlib.sha256(b"fails").hexdigest()

    def __init__(self, key):
        self.key = key

    def caption(self, requests, num_captions):
        if any(request.key == self.key for request in requests):
            raise RuntimeError("device-side assert")
        return [["a text of its own"] for _ in requests]


def test_what_captioners_died_of_is_no_matter_of_a_teachers(tmp_path):
    source, out = write_poisoned(tmp_path / "source"), tmp_path / "out"
    reinforce(source, out, teachers=(), **SETTINGS)
    set_of = {"name": "new", "progress": False}
    for _ in range(3):
        with pytest.raises(RuntimeError, match="device-side assert"):
            caption(out, FailsAt("0007"), **set_of)
    name = f"{source}/{POISONED:05d}.tar"
    report = caption(out, FailsAt("0007"), **set_of)
    assert list(report.quarantined) == [name] and (report.shards, report.waiting) == (4, 0)
    assert "3 workers died at it" in report.quarantined[name]
    report = reinforce(source, out, teachers=tiny_teacher(), **SETTINGS)
    assert report.quarantined == {} and report.shards == 5
    # The teacher's shards are done; the captioners' deaths are not forgotten for that.
    assert list(caption(out, FailsAt("0007"), **set_of).quarantined) == [name]
    assert list(store_progress(out).quarantined) == [name]
    report = caption(out, FailsAt(None), retry_quarantined=True, **set_of)
    assert report.quarantined == {} and report.shards == 5
    assert not (out / "attempts").exists()


def test_half_a_record_is_no_record(tmp_path):
    """Who died while it wrote its record has not begun."""
    (tmp_path / "attempts").mkdir()
    for place in range(3):
        (tmp_path / "attempts" / f"00000.{JOB}.{place}.json").write_text('{"shard": 0,')
    attempts = Attempts(Storage(tmp_path), JOB)
    assert attempts.all() == {} and attempts.quarantined() == {}
    assert attempts.take(0) is None, "they may just be written"
    long_ago = time.time() - 700
    os.utime(tmp_path / "attempts" / f"00000.{JOB}.1.json", (long_ago, long_ago))
    assert attempts.take(0) is not None and attempts.take(0) is None
    assert [one.place for one in attempts.of(0)] == [1]


def test_a_place_that_a_full_disk_refuses_is_not_taken(tmp_path):
    code = """
import resource, signal, sys
from reinforced_data.store.attempts import Attempts
from reinforced_data.store.storage import Storage
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
Attempts(Storage(sys.argv[1]), "0a1b2c3d").take(0)
"""
    for _ in range(4):
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True
        )
        assert done.returncode == 1 and "cannot be written" in done.stderr, done.stderr
    assert Attempts(Storage(tmp_path), JOB).take(0) is not None
