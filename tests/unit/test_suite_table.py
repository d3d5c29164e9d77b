"""The table of the suite on planted scores: who is compared, and which way is better."""

import csv
import json
import math
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import suite
from ladder_table import Finished, committed_rows


def test_the_probed_names_are_over_the_whole_alphabet():
    names = [f"{n:04d}" for n in range(1399)]
    chosen = suite.evenly(names, 200)
    assert len(set(chosen)) == 200 and chosen[0] == "0000" and chosen[-1] > "1390"
    assert suite.evenly(names[:3], 200) == names[:3] and suite.evenly([], 200) == []


def test_rows_that_are_not_there_are_refused(tmp_path):
    world = SimpleNamespace(name="toy")
    (tmp_path / "ladder-toy").mkdir()
    kept = {"name": "control", "rate": 0.1, "runs": [], "provenance": ""}
    (tmp_path / "ladder-toy" / "control.json").write_text(json.dumps(kept))
    assert [each.name for each in committed_rows(tmp_path, world, ["control"])] == ["control"]
    with pytest.raises(SystemExit, match=r"ladder-toy has no row best: run .*--rows best"):
        committed_rows(tmp_path, world, ["control", "best"])


def test_a_share_of_nothing_is_neither_better_nor_worse():
    # As `answers` has it where top-1 is 0 for a seed.
    rows = [row("control", 0.01, [math.nan, 0.5], [0.1, 0.1])]
    rows.append(row("distilled", 0.02, [0.4, 0.5], [0.1, 0.1]))
    line = dict(zip(suite._COLUMNS, suite._line(rows[0], "top1", rows), strict=True))
    assert line["mean"] == "nan" and line["verdict"] == line["minus_distilled"] == ""


def row(name: str, rate: float, top1: list[float], ece: list[float]) -> Finished:
    runs = [{"metrics": {"top1": a, "ece": b}} for a, b in zip(top1, ece, strict=True)]
    return Finished(name=name, rate=rate, runs=runs)


def test_a_smaller_calibration_error_wins_and_the_teacher_is_compared_with_nobody(tmp_path):
    rows = [
        row("teacher-a", 0.0, [0.6], [0.1]),
        row("control", 0.01, [0.30, 0.31, 0.32], [0.050, 0.055, 0.060]),
        row("distilled", 0.02, [0.40, 0.41, 0.43], [0.150, 0.152, 0.161]),
    ]
    with suite.write_table(tmp_path / "suite.csv", rows, "commit abc").open() as file:
        lines = list(csv.DictReader(line for line in file if not line.startswith("#")))
    found = {(line["row"], line["metric"]): line for line in lines}
    accuracy, error = found["control", "top1"], found["control", "ece"]
    assert (accuracy["minus_distilled"], accuracy["verdict"]) == ("-10.33", "loses")
    assert (error["minus_distilled"], error["verdict"]) == ("-9.93", "wins")
    assert error["better"] == "lower" and accuracy["scores"] == "30.00 31.00 32.00"
    for name in ("teacher-a", "distilled"):
        assert found[name, "top1"]["verdict"] == found[name, "top1"]["minus_distilled"] == ""
    assert found["teacher-a", "ece"]["standard_error"] == ""
    assert (tmp_path / "suite.csv").read_text().endswith("# commit abc\n")
