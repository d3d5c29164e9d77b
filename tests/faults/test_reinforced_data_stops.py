"""`distill reinforce` is told to stop: once, and it ends in order; twice, and it ends at once."""

import contextlib
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from distill.cli import main
from distill.testing import in_a_process
from reinforced_data import reinforce
from reinforced_data.stop_signals import Interrupted
from reinforced_data.testing import TinyEncoder, tiny_teacher, write_source

SETTINGS: dict[str, Any] = {"num_views": 2, "batch_size": 4, "progress": False}


class Told(TinyEncoder):
    """Gets signals while it embeds batch number `at`, and counts what it is asked afterwards."""

    def __init__(self, signum: int, times: int, at: int = 5) -> None:
        super().__init__()
        self.signum, self.times, self.at, self.calls = signum, times, at, 0

    def encode_image(self, images: Tensor, /) -> Tensor:
        self.calls += 1
        if self.calls == self.at:
            for told in range(self.times):
                handler = signal.getsignal(self.signum)
                os.kill(os.getpid(), self.signum)
                # Two that wait at once are one to the system: the first is heard before the next.
                while told + 1 < self.times and signal.getsignal(self.signum) == handler:
                    time.sleep(0.01)
        return super().encode_image(images)


def hashes(out: Path) -> dict[str, str]:
    commits = [json.loads(path.read_text()) for path in sorted((out / "commits").rglob("*.json"))]
    return {f"{c['column']}/{c['shard']}": c["sha256"] for c in commits}


def command(folder: str, signum: int, times: int) -> None:
    """The command itself; where its teacher comes from is of no matter here."""
    import distill.model_loading

    torch.set_num_threads(1)
    teacher = tiny_teacher(module=Told(signum, times))
    distill.model_loading.load_frozen = lambda *_: teacher
    settings = ["--teachers", "tiny", "--num-views", "2", "--batch-size", "4", "--json"]
    with open(f"{folder}/said", "w", buffering=1) as said, contextlib.redirect_stderr(said):
        code = main(["reinforce", f"{folder}/source", f"{folder}/out", *settings])
    assert teacher.module.calls == 5, "not one batch more"
    os._exit(code)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_told_once_it_ends_after_the_batch_and_says_how_to_go_on(tmp_path, signum):
    write_source(tmp_path / "source", 20)
    assert in_a_process(command, str(tmp_path), signum, 1) == 128 + signum
    (said,) = (tmp_path / "said").read_text().splitlines()
    assert said == (
        f"error: stopped by {signum.name} with 1 of 4 shards done in {tmp_path}/out; "
        "the same command goes on from there"
    )
    assert_goes_on(tmp_path, done=5)


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, -15)])
def test_told_twice_it_ends_at_once(tmp_path, signum, code):
    write_source(tmp_path / "source", 20)
    assert in_a_process(command, str(tmp_path), signum, 2) == code
    said = (tmp_path / "said").read_text()
    assert "Traceback" not in said
    assert signum != signal.SIGINT or said.splitlines() == [
        "error: interrupted; the same command goes on from here"
    ]
    assert_goes_on(tmp_path, done=5)


def assert_goes_on(folder: Path, done: int) -> None:
    """Nothing half-written is there, and the next run makes the store of a calm one."""
    assert len(hashes(folder / "out")) == done == len(list((folder / "out/data").rglob("*.*")))
    report = reinforce(folder / "source", folder / "out", teachers=tiny_teacher(), **SETTINGS)
    assert (report.shards_already_done, report.shards) == (1, 4)
    reinforce(folder / "source", folder / "calm", teachers=tiny_teacher(), **SETTINGS)
    assert hashes(folder / "out") == hashes(folder / "calm")


def test_between_batches_of_texts_too(tmp_path):
    class Talkative(TinyEncoder):
        calls = 0

        def encode_text(self, tokens: Tensor, /) -> Tensor:
            if len(tokens) > 1:  # one is asked for to learn how wide rows are
                Talkative.calls += 1
                os.kill(os.getpid(), signal.SIGTERM)
            return super().encode_text(tokens)

    write_source(tmp_path / "source", 20, samples_per_shard=20)
    teacher = tiny_teacher(module=Talkative())
    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)]
    with pytest.raises(Interrupted, match="0 of 1 shards done") as caught:
        reinforce(tmp_path / "source", tmp_path / "out", teachers=teacher, **SETTINGS)
    assert caught.value.exit_code == 128 + signal.SIGTERM and Talkative.calls == 1
    assert handlers == [
        signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    ], "they are given back"
