"""What a run sends to Weights & Biases and Trackio, read back from the files of the real ones.

Without a network: Weights & Biases in its offline mode, Trackio in its local database.
"""

import dataclasses
import json
import os
import signal
import sqlite3
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from distill import Objective, train
from distill.cli import main
from distill.config import DataConfig, RunConfig, ScheduleConfig
from distill.run_log import read_log
from distill.starting import train_several
from distill.stopping import Stopped
from distill.testing import in_a_process
from reinforced_data import reinforce
from reinforced_data.testing import TOKENIZER, TinyEncoder, tiny_teacher, write_source
from students import build_student

STEPS = 6


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    """For the processes that a test starts, and for no later test."""
    for name, value in {
        "WANDB_MODE": "offline",
        "WANDB_SILENT": "true",
        "HF_HUB_OFFLINE": "1",
        "TRACKIO_DIR": "",  # recipe() names it
    }.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    source = write_source(folder / "source", 16, samples_per_shard=8)
    teachers = [tiny_teacher("a", seed=1)]
    reinforce(source, folder / "store", teachers=teachers, num_views=1, progress=False)
    return str(folder / "store")


def student():
    return build_student(TinyEncoder(seed=5), image_size=16, tokenizer=TOKENIZER)


def recipe(store: str, out: Path, track: str) -> RunConfig:
    """A run's configuration; Trackio keeps its files beside the run's folder."""
    os.environ["TRACKIO_DIR"] = str(out.parent / "trackio")
    torch.set_num_threads(1)
    return RunConfig(
        data=DataConfig(store=store, batch_size=8, num_workers=0),
        objective=Objective(contrastive=0.3, affinity=0.7),
        schedule=ScheduleConfig(num_steps=STEPS, warmup_steps=1),
        log_every=1,
        save_every=STEPS,
        track=track,
        out=str(out),
    )


def learn(store: str, out: Path, track: str, stop_after: int = 0) -> None:
    """Train; after so many steps this process is told to stop, and says so."""
    calls = []

    def watch(*_):
        calls.append(1)
        if len(calls) == stop_after:
            os.kill(os.getpid(), signal.SIGTERM)
        return torch.zeros(())

    config = recipe(store, out, track)
    goal = dataclasses.replace(config.objective, custom={"watch": (0.0, watch)})
    config = dataclasses.replace(config, objective=goal)
    try:
        train(student(), store, recipe=config, out=out, show=False)
        assert not stop_after
    except Stopped:
        assert stop_after


def learn_both(store: str, outs: list[Path], track: str) -> None:
    configs = [recipe(store, out, track) for out in outs]
    train_several(configs, students=[student(), student()], show=False)


def learn_without_a_key(store: str, out: Path) -> None:
    config = recipe(store, out, "wandb")
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        del os.environ[name]
    os.environ["HOME"] = os.environ["NETRC"] = str(out.parent / "nobody")
    with pytest.raises(ValueError, match="wandb login"):
        train(student(), store, recipe=config, out=out, show=False)
    assert not read_log(out)


def wandb_records(path: Path):
    """Records of an offline run: LevelDB's log format after a header of 7 bytes."""
    from wandb.proto import wandb_internal_pb2

    data, at, whole = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or its last part
            record, whole = wandb_internal_pb2.Record.FromString(whole), b""
            yield record


def wandb_part(path: Path) -> tuple[list[tuple], list[dict], list[int]]:
    """Of one file: (id, name, project, configuration) of its runs, what was sent, exit codes."""
    runs, sent, codes = [], [], []
    for record in wandb_records(path):
        if record.HasField("run"):
            config = {c.key: json.loads(c.value_json) for c in record.run.config.update}
            run = record.run
            runs.append((run.run_id, run.display_name, run.project, config["schedule"]))
        elif record.HasField("history"):
            items = record.history.item
            values = {i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in items}
            step = {"step": record.history.step.num}
            sent.append(step | {n: v for n, v in values.items() if not n.startswith("_")})
        elif record.HasField("exit"):
            codes.append(record.exit.exit_code)
    return runs, sent, codes


def wandb_parts(out: Path):
    return [wandb_part(path) for path in sorted(out.glob("wandb/offline-run-*/*.wandb"))]


def trackio_rows(out: Path) -> list[tuple[str, dict]]:
    """The run's id and the numbers of each step, as its database has them."""
    with sqlite3.connect(out.parent / "trackio" / "clip-distill.db") as base:
        query = "select run_id, step, metrics from metrics where run_name = ? order by id"
        rows = base.execute(query, (out.name,)).fetchall()
    return [(run, {"step": step, **json.loads(metrics)}) for run, step, metrics in rows]


def numbers(out: Path) -> list[dict]:
    """What the run's own log has, without the warnings that a busy machine may add."""
    return [record for record in read_log(out) if "warning" not in record]


def test_wandb_gets_the_log_and_a_stopped_run_goes_on_in_the_same_one(store, tmp_path):
    pytest.importorskip("wandb")
    out = tmp_path / "s0"
    assert in_a_process(learn, store, out, "wandb", 4) == 0
    assert in_a_process(learn, store, out, "wandb") == 0
    first, second = wandb_parts(out)
    assert first[0][0] == second[0][0]
    run_id, name, project, schedule = first[0][0]
    assert run_id == json.loads((out / "tracker.json").read_text())["id"]
    assert (name, project, schedule["num_steps"]) == ("s0", "clip-distill", STEPS)
    assert first[1] + second[1] == numbers(out) and len(numbers(out)) == STEPS
    assert (first[2], second[2]) == ([1], [0])
    assert in_a_process(learn, store, tmp_path / "plain", "none") == 0
    tracked, plain = (load_file(p / "model.safetensors") for p in (out, tmp_path / "plain"))
    assert all(torch.equal(tracked[key], plain[key]) for key in plain)


def test_trackio_gets_the_log_and_a_stopped_run_goes_on_in_the_same_one(store, tmp_path):
    pytest.importorskip("trackio")
    out = tmp_path / "s0"
    assert in_a_process(learn, store, out, "trackio", 4) == 0
    assert in_a_process(learn, store, out, "trackio") == 0
    rows = trackio_rows(out)
    run_id = json.loads((out / "tracker.json").read_text())["id"]
    assert {run for run, _ in rows} == {run_id}
    assert [sent for _, sent in rows] == numbers(out) and len(rows) == STEPS
    with sqlite3.connect(tmp_path / "trackio" / "clip-distill.db") as base:
        configs = base.execute("select config from configs where run_id = ?", (run_id,)).fetchall()
    assert json.loads(configs[0][0])["schedule"]["num_steps"] == STEPS


@pytest.mark.parametrize("track", ["wandb", "trackio"])
def test_runs_that_share_a_pass_are_tracked_apart(store, tmp_path, track):
    pytest.importorskip(track)
    outs = [tmp_path / "a", tmp_path / "b"]
    assert in_a_process(learn_both, store, outs, track) == 0
    for out in outs:
        if track == "wandb":
            ((_, sent, codes),) = wandb_parts(out)
            assert codes == [0]
        else:
            sent = [values for _, values in trackio_rows(out)]
        assert sent == numbers(out) and len(sent) == STEPS
    ids = {json.loads((out / "tracker.json").read_text())["id"] for out in outs}
    assert len(ids) == 2


def test_input_without_a_login_it_is_refused_before_the_first_step(store, tmp_path):
    pytest.importorskip("wandb")
    assert in_a_process(learn_without_a_key, store, tmp_path / "s0") == 0


@pytest.mark.parametrize("track", ["wandb", "trackio"])
def test_input_a_tracker_that_is_not_installed_or_has_no_name(
    store, tmp_path, monkeypatch, capsys, track
):
    config = dataclasses.replace(recipe(store, tmp_path / "s0", track), out="")
    monkeypatch.setattr("distill.tracking.version", lambda name: None)
    with pytest.raises(ValueError, match=r'pip install "clip-distill\[track\]"'):
        train(student(), store, recipe=config, out=tmp_path / "s0", show=False)
    assert not (tmp_path / "s0").exists()
    arguments = ["train", "demo", "--data.store", store, "--out", str(tmp_path / "s1")]
    assert main([*arguments, "--track", track]) == 2
    assert "clip-distill[track]" in capsys.readouterr().err
    monkeypatch.setattr("distill.tracking.version", lambda name: "1")
    with pytest.raises(ValueError, match="give out"):
        train(student(), store, recipe=config, show=False)
