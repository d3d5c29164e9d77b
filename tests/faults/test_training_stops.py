"""A training process is killed, told to stop, or finds the disk full; the same call goes on."""

import json
import os
import random
import resource
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from distill import Objective, train
from distill.checkpoint import newest_checkpoint
from distill.config import DataConfig, OptimizerConfig, RunConfig, ScheduleConfig
from distill.run_log import read_log
from distill.stopping import Stopped
from distill.testing import in_a_process
from reinforced_data import reinforce
from reinforced_data.testing import TOKENIZER, TinyEncoder, tiny_teacher, write_source
from students import build_student

STEPS = 24


class Noisy(TinyEncoder):
    """A student whose steps depend on random numbers."""

    def encode_image(self, images: Tensor, /) -> Tensor:
        return torch.nn.functional.dropout(super().encode_image(images), 0.3, self.training)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    source = write_source(folder / "source", 40, samples_per_shard=7)
    teachers = [tiny_teacher("a", seed=1), tiny_teacher("b", seed=2, embed_dim=12)]
    reinforce(source, folder / "store", teachers=teachers, num_views=2, progress=False)
    return str(folder / "store")


@pytest.fixture(scope="module")
def undisturbed(store, tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    assert in_a_process(learn, store, str(out)) == 0
    return out


def learn(store: str, out: str, at_step=None, **changes) -> None:
    """Train; `at_step(calls)` is called once a step with how many steps this process has taken."""
    torch.set_num_threads(1)
    calls = []

    def each_step(*_):
        calls.append(1)
        if at_step is not None:
            at_step(len(calls))
        return torch.zeros(())

    settings: dict[str, Any] = {"save_every": 4, "keep_checkpoints": 2} | changes
    recipe = RunConfig(
        data=DataConfig(batch_size=12, num_workers=0),
        objective=Objective(
            contrastive=0.3, affinity=0.7, feature=1.0, custom={"watch": (0.0, each_step)}
        ),
        optimizer=OptimizerConfig(lr=1e-2),
        schedule=ScheduleConfig(num_steps=STEPS, warmup_steps=1),
        ema_decay=0.9,
        log_every=1,
        **settings,
    )
    torch.manual_seed(len(out))  # what a process drew before must not matter
    student = build_student(Noisy(seed=5), image_size=16, tokenizer=TOKENIZER)
    train(student, store, recipe=recipe, out=out, show=False)


def assert_same_run(left: Path, right: Path) -> None:
    """Weights, average and optimizer bit for bit; every step logged once, with equal losses."""
    for name in ("model.safetensors", f"checkpoints/step-{STEPS:08d}/tensors.safetensors"):
        one, two = load_file(left / name), load_file(right / name)
        assert one.keys() == two.keys()
        assert [key for key in one if not torch.equal(one[key], two[key])] == []
    logs = [
        [(r["step"], r["loss/total"]) for r in read_log(path) if "loss/total" in r]
        for path in (left, right)
    ]
    assert logs[0] == logs[1] and [step for step, _ in logs[0]] == list(range(1, STEPS + 1))


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def learn_and_die(store: str, out: str, calls: int) -> None:
    learn(store, out, lambda count: die() if count == calls else None)


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_three_kills_change_no_bit(store, undisturbed, tmp_path, seed):
    out = tmp_path / "run"
    for calls in random.Random(seed).choices(range(1, 8), k=3):
        assert in_a_process(learn_and_die, store, str(out), calls) == -signal.SIGKILL
    assert in_a_process(learn, store, str(out)) == 0
    assert_same_run(out, undisturbed)


def learn_and_die_saving(store: str, out: str, events: int) -> None:
    """Die at the given one of the second and third checkpoints' system calls."""
    from distill import checkpoint

    seen = []

    def counted(function):
        def call(*arguments, **named):
            if len(read_log(Path(out))) >= 8:
                seen.append(1)
                if len(seen) == events:
                    if function is save_file:  # half of it has reached the disk
                        path = Path(arguments[1])
                        save_file(*arguments, **named)
                        os.truncate(path, path.stat().st_size // 2)
                    die()
            return function(*arguments, **named)

        return call

    checkpoint.save_file = counted(save_file)
    checkpoint._sync = counted(checkpoint._sync)
    checkpoint._digest = counted(checkpoint._digest)
    checkpoint.shutil.rmtree = counted(checkpoint.shutil.rmtree)
    Path.rename = counted(Path.rename)
    learn(store, out, keep_checkpoints=1)


@pytest.mark.parametrize(
    "events", [pytest.param(n, marks=pytest.mark.slow if n % 2 else ()) for n in range(1, 10)]
)
def test_a_kill_while_a_checkpoint_is_written(store, undisturbed, tmp_path, events):
    """One checkpoint is kept: there is always a whole one, whatever the moment."""
    out = tmp_path / "run"
    assert in_a_process(learn_and_die_saving, store, str(out), events) == -signal.SIGKILL
    newest = newest_checkpoint(out / "checkpoints")
    assert newest is not None and newest.name in ("step-00000004", "step-00000008")
    assert in_a_process(learn, store, str(out)) == 0
    assert_same_run(out, undisturbed)
    assert not list((out / "checkpoints").glob("partial-*"))


@pytest.mark.parametrize("damage", ["cut", "flipped", "meta", "gone"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(
    store, undisturbed, tmp_path, damage
):
    out = tmp_path / "run"
    assert in_a_process(learn_and_die, store, str(out), 11) == -signal.SIGKILL
    newest = out / "checkpoints" / "step-00000008"
    file = newest / ("meta.json" if damage == "meta" else "tensors.safetensors")
    data = bytearray(file.read_bytes())
    if damage == "gone":
        file.unlink()
    else:
        data[-20] ^= 1
        file.write_bytes(data[:-10] if damage == "cut" else data)
    with pytest.warns(UserWarning, match="step-00000008 is not used"):
        before = newest_checkpoint(out / "checkpoints")
    assert before is not None and before.name == "step-00000004"
    assert in_a_process(learn, store, str(out)) == 0
    assert_same_run(out, undisturbed)


def learn_and_be_told(store: str, out: str, signum: int, twice: bool) -> None:
    def tell(count: int) -> None:
        if count == 6:
            os.kill(os.getpid(), signum)
            if twice:
                os.kill(os.getpid(), signum)

    try:
        learn(store, out, tell, save_every=0)
    except Stopped as stopped:
        (Path(out) / "said").write_text(str(stopped))
        os._exit(stopped.exit_code)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_told_to_stop_it_saves_and_says_so(store, undisturbed, tmp_path, signum):
    out = tmp_path / "run"
    assert in_a_process(learn_and_be_told, store, str(out), signum, False) == 128 + signum
    said = (out / "said").read_text()
    assert f"stopped after step 6 by {signum.name}; saved in {out}" in said
    assert [p.name for p in (out / "checkpoints").iterdir()] == ["step-00000006"]
    assert in_a_process(learn, store, str(out)) == 0
    assert_same_run(out, undisturbed)


def test_told_twice_it_stops_at_once(store, tmp_path):
    out = tmp_path / "run"
    code = in_a_process(learn_and_be_told, store, str(out), signal.SIGTERM, True)
    assert code == -signal.SIGTERM and not (out / "checkpoints").exists()


def learn_slowly(store: str, out: str) -> None:
    import time

    learn(store, out, lambda _: time.sleep(0.02), save_every=0, save_every_minutes=0.1 / 60)


def test_saves_by_the_clock(store, tmp_path):
    assert in_a_process(learn_slowly, store, str(tmp_path / "run")) == 0
    assert newest_checkpoint(tmp_path / "run" / "checkpoints") is not None


def learn_on_a_full_disk(store: str, out: str) -> None:
    def fill(count: int) -> None:
        if count == 6:  # the second checkpoint does not fit any more
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (9000, resource.RLIM_INFINITY))

    try:
        learn(store, out, fill)
    except OSError as error:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        (Path(out) / "said").write_text(str(error))
        os._exit(1)


def test_a_full_disk_leaves_the_checkpoint_before(store, undisturbed, tmp_path):
    out = tmp_path / "run"
    assert in_a_process(learn_on_a_full_disk, store, str(out)) == 1
    said = (out / "said").read_text()
    assert "step-00000008 cannot be written" in said and "Older ones are whole" in said
    assert [p.name for p in (out / "checkpoints").iterdir()] == ["step-00000004"]
    assert in_a_process(learn, store, str(out)) == 0
    assert_same_run(out, undisturbed)


def test_a_folder_that_cannot_be_written_is_refused_before_training(store, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(ValueError, match=r"cannot be written to \(.*give another folder"):
        learn(store, str(tmp_path / "file" / "run"))


def test_what_was_refused_is_counted_over_all_parts_of_a_run(tmp_path):
    """One picture changes after it was reinforced; a resumed run knows of earlier refusals."""
    shards = write_source(tmp_path / "source", 24, samples_per_shard=24)
    teacher = tiny_teacher("a", seed=1)
    reinforce(shards, tmp_path / "store", teachers=teacher, num_views=1, progress=False)
    tar = Path(shards[0])
    data = bytearray(tar.read_bytes())
    at = data.index(b"IDAT") + 8
    data[at] ^= 1
    tar.write_bytes(data)
    for name, deaths in (("whole", []), ("cut", [7, 9])):
        out = str(tmp_path / name)
        for calls in deaths:
            code = in_a_process(learn_and_die, str(tmp_path / "store"), out, calls)
            assert code == -signal.SIGKILL
        assert in_a_process(learn, str(tmp_path / "store"), out) == 0
    counts = [
        json.loads((tmp_path / n / "result.json").read_text())["refused"] for n in ("whole", "cut")
    ]
    assert counts[0] == counts[1] == {"image-changed": STEPS // 2}
