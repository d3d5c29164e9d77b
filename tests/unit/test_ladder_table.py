"""The ladder's statistics on planted scores, and where its rows are kept."""

import csv
import io
import math
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from rich.console import Console
from scipy import stats

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import export_table
import inheritance
import ladder
import ladder_world
from ladder_rows import SWEEP, Place
from ladder_table import (
    Finished,
    append_row,
    mean_and_error,
    paired,
    print_table,
    read_rows,
    verdict,
    write_row,
    write_table,
)
from ladder_world import World

METRICS = ("top1", "top5", "image_to_text_r10", "text_to_image_r10")
WORLD = World(
    name="planted",
    folder=Path(),
    train="",
    store=Path(),
    teachers=[],
    splits={"validation": "", "heldout": ""},
    teacher_views={},
)


def row(name: str, *scores: float) -> Finished:
    metrics = [f"{split}/{metric}" for split in WORLD.splits for metric in METRICS]
    runs = [
        {
            "metrics": dict.fromkeys(metrics, score),
            "steps": 400,
            "image_params": 7,
            "seconds": 1.5,
        }
        for score in scores
    ]
    return Finished(name=name, rate=0.01, runs=runs)


def test_mean_and_error_are_numpys():
    values = [34.1, 36.9, 35.2, 30.0]
    mean, error = mean_and_error(values)
    assert mean == pytest.approx(np.mean(values))
    assert error == pytest.approx(np.std(values, ddof=1) / math.sqrt(4))
    assert math.isnan(mean_and_error([1.0])[1])


@pytest.mark.parametrize(
    ("differences", "says"),
    [
        ([1.0, 1.1, 1.2], "wins"),
        ([-1.0, -1.1, -1.2], "loses"),
        ([0.1, 0.2, 3.0], "noise"),  # one sign, and a large error
        ([1.0, 1.1, 1.2, 1.1, 1.0, 1.1, 1.2, 1.1, -0.1], "noise"),  # a small error, two signs
        ([0.0, 0.0, 0.0], "noise"),
        ([5.0], "one seed"),
    ],
)
def test_a_verdict_needs_every_seed_and_two_errors(differences, says):
    assert verdict(differences) == says


def test_how_often_three_seeds_call_nothing_something():
    draws = np.random.default_rng(0).normal(size=(4000, 3))
    called = np.mean([verdict(list(three)) != "noise" for three in draws])
    assert called == pytest.approx(2 * stats.t.sf(2, df=2), abs=0.02)  # 0.18: as the page says


def test_rows_are_paired_seed_by_seed_and_the_table_says_so(tmp_path):
    rows = [row("undistilled", 0.2, 0.3, 0.4), row("control", 0.21, 0.33, 0.42)]
    rows.append(row("distilled", 0.31, 0.39, 0.52))
    for each in rows:
        write_row(tmp_path, WORLD, each)
    again = read_rows(tmp_path, WORLD, ["undistilled", "missing", "control", "distilled"])
    assert again == rows
    assert paired(rows[2], "heldout/top1", rows, "undistilled") == pytest.approx([11, 9, 12])
    assert paired(rows[2], "heldout/top1", rows, "distilled") == []
    with write_table(tmp_path, WORLD, again).open() as file:
        lines = [line for line in csv.DictReader(file) if line["metric"] == "heldout/top1"]
    found = {line["row"]: line for line in lines}
    assert float(found["distilled"]["minus_undistilled"]) == pytest.approx(10.67)
    assert found["distilled"]["verdict"] == "wins" and found["distilled"]["base"] == "control"
    assert float(found["distilled"]["minus_base"]) == pytest.approx(8.67)
    assert found["undistilled"]["minus_undistilled"] == ""


def test_a_smaller_inheritance_leaves_the_committed_table(tmp_path):
    committed = Path(ladder.__file__).parent / "results"
    whole = (inheritance.STARTS, inheritance.SEEDS, inheritance.STEPS)
    assert inheritance._results(tmp_path, *whole) == committed
    for fewer in ((("random",), *whole[1:]), (whole[0], 1, whole[2]), (*whole[:2], 20)):
        assert tmp_path in inheritance._results(tmp_path, *fewer).parents


def test_a_partial_table_of_exports_leaves_the_committed_one(tmp_path, monkeypatch):
    formats = {
        "here": SimpleNamespace(packages=("csv",), write=("none", "int8")),
        "elsewhere": SimpleNamespace(packages=("no_such_package",), write=("none",)),
    }
    monkeypatch.setattr(export_table, "FORMATS", formats)
    assert export_table.left_out([]) == ["elsewhere:none"]
    assert export_table.left_out(["here:int8"]) == ["here:none", "elsewhere:none"]
    assert export_table.results_folder(tmp_path, ["here:none"]) == tmp_path
    assert export_table.results_folder(tmp_path, []).parent.name == "benchmarks"


def test_a_shorter_ladder_leaves_the_committed_rows(tmp_path):
    committed = Path(ladder.__file__).parent / "results"

    def place(**changes) -> Path:
        whole = {"steps": 400, "seeds": 3, "sweep": SWEEP, "processes": 1} | changes
        return ladder._results(tmp_path, ladder.Effort(**whole))

    assert place() == place(steps=72) == committed
    for fewer in ({"steps": 50}, {"seeds": 1}, {"sweep": SWEEP[:1]}):
        assert tmp_path in place(**fewer).parents


def test_rows_train_at_the_best_rate_of_the_one_they_vary_and_sweeps_side_by_side(monkeypatch):
    best = {"distilled": 8e-3, "undistilled": 2e-3}
    calls = []

    def trained(runs, **_):
        calls.append([(Path(run.out).parent.name, Path(run.out).name) for run in runs])
        lost = [abs(float(name.split("-")[1]) - best.get(row, 0)) for row, name in calls[-1]]
        return [
            {"metrics": {"validation/top1": -each}, "run": run}
            for each, run in zip(lost, runs, strict=True)
        ]

    place = Place(store="store", donor="a/b", other="a/c", splits={}, runs=Path("runs"))
    world = SimpleNamespace(store=Path("store"), place=lambda *_: place)
    monkeypatch.setattr(ladder, "train_side_by_side", trained)
    effort = ladder.Effort(steps=100, seeds=2, sweep=SWEEP, processes=2)
    names = ["sigmoid", "undistilled", "one-view"]
    found = ladder.run_rows(world, names, effort, 0.0, Console(quiet=True))
    sweeps, rows = calls
    assert [row for row, _ in sweeps] == ["distilled"] * 4 + ["undistilled"] * 4
    assert rows == [
        (name, f"lr-{rate:g}-seed-{seed}")
        for name, rate in zip(names, (8e-3, 2e-3, 8e-3), strict=True)
        for seed in range(2)
    ]
    assert [(row.name, row.rate) for row in found] == [*zip(names, (8e-3, 2e-3, 8e-3), strict=True)]
    assert [run["run"].seed for row in found for run in row.runs] == [0, 1] * 3


def test_rows_of_another_length_are_a_table_of_their_own():
    named = [ladder._of_length(WORLD, steps).name for steps in (400, 100, 50)]
    assert named == ["planted", "planted-100-steps", "planted-50-steps"]


def test_a_table_of_other_columns_is_not_written_to(tmp_path):
    path = tmp_path / "new" / "t.csv"
    for value in (1, 2):
        append_row(path, {"a": value, "b": "x, y"})
    assert path.read_text().splitlines() == ["a,b", '1,"x, y"', '2,"x, y"']
    with pytest.raises(SystemExit, match=r"t.csv has other columns than a, between, b"):
        append_row(path, {"a": 3, "between": 0, "b": "x"})


def test_one_seed_is_printed_without_an_error():
    console = Console(record=True, width=200, quiet=False, file=io.StringIO())
    print_table(WORLD, [row("undistilled", 0.25), row("distilled", 0.5)], console)
    said = console.export_text()
    assert "50.0" in said and "+25.0 one seed" in said and "nan" not in said


def test_a_quick_ladder_has_lesser_teachers_in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr(ladder_world, "_write_part", lambda *args: None)
    for split in ("train", "heldout"):
        (tmp_path / "data" / split).mkdir(parents=True)
    whole, quick = (
        ladder_world.own_source(str(tmp_path / "data"), tmp_path / "runs", quick=quick)
        for quick in (False, True)
    )
    steps = [world.teachers[0].schedule.num_steps for world in (whole, quick)]
    assert steps == [2_700, 900]
    assert whole.folder != quick.folder and whole.name != quick.name
