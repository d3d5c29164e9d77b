"""The sweep over teachers' scales: what it trains, what it says, and that it goes on."""

import json

import pytest
from rich.console import Console

from distill.calibrating import calibrate
from distill.cli import main
from distill.recipes import find_recipe
from reinforced_data import ViewPolicy, reinforce
from reinforced_data.testing import sample, tiny_teacher, write_source


@pytest.mark.slow  # trains in processes of their own
def test_calibrate_from_the_command_line(tmp_path, capsys):
    samples = [sample(n, cls=("red", "blue")[n % 2]) for n in range(12)]
    source = write_source(tmp_path / "source", samples)
    views = ViewPolicy(num_ops=1)
    teacher = tiny_teacher("large")
    reinforce(
        source, tmp_path / "store", teachers=teacher, num_views=1, policy=views, progress=False
    )
    command = ["calibrate", "demo", "--data.store", tmp_path / "store", "--out", tmp_path / "out"]
    command += ["--scales", 1, 0.3, "--steps", 2, "--processes", 1, "--json"]
    command += ["--data.batch-size", 4, "--data.num-workers", 0]
    command += ["--evaluate-on", "validation", tmp_path / "source"]
    command = [str(part) for part in command]
    assert main(command) == 0
    said = json.loads(capsys.readouterr().out)
    (found,) = said["teachers"]
    assert found["teacher"] == "large" and set(found["scores"]) == {"1.0", "0.3"}
    runs = {
        scale: tmp_path / "out" / "large" / f"scale-{scale}" / "result.json" for scale in (1, 0.3)
    }
    scores = {s: json.loads(p.read_text())["metrics"]["validation/top1"] for s, p in runs.items()}
    assert {float(s): v for s, v in found["scores"].items()} == scores
    assert said["teacher_scales"] == [max(scores, key=scores.__getitem__)]
    config = json.loads((runs[0.3].parent / "config.json").read_text())
    assert config["objective"]["teacher_scale"] == 0.3 and config["data"]["teachers"] == ["large"]
    written = {path: path.stat().st_mtime_ns for path in runs.values()}
    assert main(command) == 0  # nothing is trained again
    assert json.loads(capsys.readouterr().out) == said
    assert {path: path.stat().st_mtime_ns for path in runs.values()} == written


def test_what_cannot_be_calibrated_is_said(tmp_path, capsys):
    assert main(["calibrate"]) == 2
    assert main(["calibrate", "demo"]) == 2
    assert "--data.store FOLDER" in capsys.readouterr().err
    with pytest.raises(ValueError, match="has no affinity"):
        calibrate(find_recipe("lit"), console=Console(quiet=True))
    with pytest.raises(ValueError, match="a split that is not the one to report"):
        calibrate(find_recipe("demo"), console=Console(quiet=True))
    with pytest.raises(ValueError, match="factors above 0"):
        calibrate(find_recipe("demo"), scales=(0.0,), console=Console(quiet=True))
