"""The scaling benchmark's tables on planted runs: what `distill fit-scaling` makes of them."""

import csv
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import scaling

WORK = 3.0


def test_a_world_without_the_ladders_rows_says_what_makes_them(tmp_path, monkeypatch):
    monkeypatch.setattr(scaling, "RESULTS", tmp_path)
    world = SimpleNamespace(name="new")
    with pytest.raises(SystemExit, match=r"ladder-new has no row undistilled, distilled: run .*"):
        scaling.trained(world, [25], 1, 1, Console(quiet=True))  # type: ignore[arg-type]


def planted() -> list[dict]:
    """Errors on two laws, the distilled one lower by as much everywhere; seeds a little apart."""
    rows = []
    for steps in scaling.STEPS:
        for seed in range(3):
            off = 1 + 0.002 * (seed - 1)
            missing = {"undistilled": 40 + 200 * steps**-0.5, "distilled": 30 + 200 * steps**-0.5}
            for recipe, error in missing.items():
                told = {"steps": steps, "seed": seed, "top1": f"{100 - off * error:.2f}"}
                rows.append({"recipe": recipe, "gmacs": f"{WORK * steps:.1f}", **told})
    return rows


def test_the_laws_of_planted_runs(tmp_path):
    runs, last = tmp_path / "runs.csv", WORK * 400
    scaling._write(runs, planted(), "commit abc")
    rows = scaling.fitted(runs, [last / 4, last, 2 * last], Console(quiet=True), draws=20)
    scaling._write(tmp_path / "laws.csv", rows, "commit abc")
    with (tmp_path / "laws.csv").open() as file:
        found = {(line["recipe"], line["at_gmacs"]): line for line in csv.DictReader(file)}
    assert len(found) == 6
    assert {line["provenance"] for line in found.values()} == {"commit abc"}
    distilled, base = found["distilled", "1200"], found["undistilled", "1200"]
    assert float(base["error"]) == pytest.approx(40 + 200 * 400**-0.5, rel=0.01)
    assert float(base["exponent"]) == pytest.approx(0.5, rel=0.1)
    assert float(distilled["minus_undistilled"]) == pytest.approx(-10, rel=0.05)
    assert distilled["verdict"] == "distilled is better"
    # At 100 steps the distilled ones miss 50, as the others do at 400; at 400 they miss what the
    # others always miss.
    assert float(found["distilled", "300"]["undistilled_needs"]) == pytest.approx(4, rel=0.2)
    assert distilled["undistilled_needs"] == ""
    assert base["verdict"] == base["undistilled_needs"] == ""
