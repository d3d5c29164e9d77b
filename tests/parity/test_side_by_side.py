"""Runs that share a process and a pass over the store are what they are alone."""

from dataclasses import replace
from pathlib import Path

from rich.console import Console
from safetensors.torch import load_file

from distill import Objective
from distill.clock import Clock
from distill.config import DataConfig, RunConfig, ScheduleConfig, StudentConfig
from distill.mask_config import MaskConfig
from distill.run_log import read_log
from distill.side_by_side import _passes, train_side_by_side
from reinforced_data import reinforce
from reinforced_data.testing import TOKENIZER, tiny_teacher, write_source
from students import StudentSpec, TextSpec, build_student
from students.tokens.policy import TokenPolicy


def named(name: str, **changes) -> RunConfig:
    schedule = ScheduleConfig(num_steps=4, warmup_steps=1)
    base = RunConfig(out=name, schedule=schedule, objective=Objective(affinity=0.7))
    return replace(base, **changes)


def test_runs_that_read_the_same_share_a_pass():
    base = named("base")
    runs = [
        base,
        named("seed", seed=1),
        named("objective", objective=replace(base.objective, affinity=0.1)),
        named("undistilled", objective=Objective()),
        named("steps", schedule=ScheduleConfig(num_steps=5, warmup_steps=1)),
        named("masks", masks=MaskConfig(keep=0.5, steps=2, warmup_steps=1)),
        named("dropping", tokens=TokenPolicy(image="random", image_keep=0.5)),
        named("attended", tokens=TokenPolicy(image="attentive", image_keep=0.5)),
        named("views", data=DataConfig(views=1)),
        named("another", objective=replace(base.objective, affinity=0.2)),
    ]
    shared = [[run.out for run in together] for together in _passes(runs, 3)]
    assert shared == [
        ["base", "objective", "dropping"],
        ["steps"],  # one more than the others
        ["seed"],
        ["undistilled"],
        ["masks"],
        ["attended"],
        ["views"],
        ["another"],
    ]
    assert all(len(together) == 1 for together in _passes(runs, 1))


def test_a_shared_process_changes_no_run(tmp_path):
    source, store = write_source(tmp_path / "source", 24), tmp_path / "store"
    reinforce(source, store, teachers=tiny_teacher("a", seed=1), num_views=2, progress=False)
    text = TextSpec(width=16, layers=1, heads=2, context_length=TOKENIZER.context_length)
    spec = StudentSpec(image="smallconv-4", text=text, embed_dim=16, image_size=16)
    build_student(spec, tokenizer=TOKENIZER).save(tmp_path / "start")
    first = RunConfig(
        student=StudentConfig(name=str(tmp_path / "start")),
        data=DataConfig(store=str(store), batch_size=8, num_workers=0),
        objective=Objective(contrastive=0.3, affinity=0.7),
        schedule=ScheduleConfig(num_steps=4, warmup_steps=1),
        save_every=0,
        log_every=1,
    )
    other = replace(first, objective=Objective(affinity=1.0))

    def in_folder(name: str) -> list[RunConfig]:
        folder = tmp_path / name
        return [replace(first, out=str(folder / "a")), replace(other, out=str(folder / "b"))]

    console = Console(quiet=True)
    shared = train_side_by_side(in_folder("shared"), processes=1, console=console, sharing=2)
    alone = in_folder("alone")
    train_side_by_side(alone, processes=1, console=console)
    assert len(shared) == 2
    for config in alone:
        folder = Path(config.out)
        found, expected = (
            load_file(tmp_path / name / folder.name / "model.safetensors")
            for name in ("shared", "alone")
        )
        assert all((found[n] == value).all() for n, value in expected.items())
        assert read_log(tmp_path / "shared" / folder.name)


def test_a_clock_leaves_out_what_others_do(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("distill.clock.time.perf_counter", lambda: now[0])
    clock = Clock()
    now[0] = 2.0
    try:
        with clock.stopped():
            now[0] = 7.0
            raise KeyError
    except KeyError:
        now[0] = 8.0
    assert clock.seconds() == 3.0
