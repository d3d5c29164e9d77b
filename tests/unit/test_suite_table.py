"""The table of the suite on planted scores: who is compared, and which way is better."""

import csv
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import suite
from ladder_table import Finished


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
