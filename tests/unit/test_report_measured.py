"""Exports and profiles of one run in one table: what each form costs, and what it scores itself."""

import json
from pathlib import Path

import pytest

from distill.report import Measured, TowerCost
from distill.run_exports import Exported, read_export, read_profile, together


def tower(name, quantize, size, **more):
    kept = {"relative_error": 0.01, "latency_ms": 4.0, "input_shape": ["n", 3, 8, 8]}
    path = f"onnx/{name}.{quantize}.onnx"
    return {"format": "onnx", "quantize": quantize, "tower": name, "path": path, "bytes": size,
            **kept, **more}  # fmt: skip


def verdict(quantize, metric):
    return {"format": "onnx", "quantize": quantize, "metric_name": "top1" if metric else None,
            "metric": metric, "metric_of_model": 0.41 if metric else None}  # fmt: skip


def exported(folder=Path("out"), *, scores=(0.41, 0.40)):
    towers = [tower(name, each, size) for each, size in (("none", 400), ("int8", 100))
              for name in ("image", "text", "zero_shot")]  # fmt: skip
    verdicts = [verdict(each, x) for each, x in zip(("none", "int8"), scores, strict=True)]
    return Exported(
        folder=folder, run=Path("run"), towers=towers, files=[], versions={}, verdicts=verdicts
    )


def profile(path, student, towers=None):
    rows = [
        {"tower": name, "form": form, "path": "x", "bytes": 100, "batch_size": 2, "threads": 1,
         "latency_ms": 6.0, "latency_p95_ms": 8.0, "memory_bytes": 5000}
        for form in ("onnx", "onnx:int8") for name in ("image", "text")
    ]  # fmt: skip
    found = {"student": str(student), "batch_size": 2, "threads": 1, "files": rows}
    if towers is not None:
        found |= {"device": "cpu", "towers": towers}
    path.write_text(json.dumps(found))
    return path


def eager(name, form):
    return {"tower": name, "form": form, "bytes": 410, "latency_ms": 10.0, "latency_p95_ms": 12.0,
            "memory_bytes": None}  # fmt: skip


@pytest.mark.parametrize("lacks", ["path", "tower", "format", "bytes"])
def test_what_a_tower_of_an_export_lacks_is_said_with_the_file(tmp_path, lacks):
    towers = [{key: x for key, x in tower("image", "none", 4).items() if key != lacks}]
    (tmp_path / "metadata.json").write_text(json.dumps({"towers": towers, "files": {}}))
    with pytest.raises(ValueError, match=f"metadata.json is no export's: .*'{lacks}'.*export"):
        read_export(tmp_path, [])


def test_each_form_has_its_costs_and_its_own_score():
    plain, rounded = exported().measured("mine")
    cost = TowerCost(bytes=400, latency_ms=4.0)
    assert plain == Measured(
        name="mine", form="onnx", image=cost, text=cost, metric="top1", score=0.41,
        score_of_model=0.41,
    )  # fmt: skip
    assert rounded.rounded and (rounded.score, rounded.score_of_model) == (0.40, 0.41)
    assert [each.metric for each in exported(scores=(None, None)).measured("mine")] == ["", ""]


def test_a_profile_is_laid_over_the_export_of_its_run(tmp_path):
    run = tmp_path / "run"
    towers = [eager(n, f) for n in ("image", "text") for f in ("training", "inference")]
    found = read_profile(profile(tmp_path / "p.json", run, towers), {run: "mine"})
    model, plain, rounded = together([*exported().measured("mine"), *found])
    assert model.form == "torch on cpu" and model.image == TowerCost(
        bytes=410, latency_ms=5.0, latency_p95_ms=6.0
    )
    assert (model.metric, model.score, model.rounded) == ("top1", 0.41, False)
    assert rounded.text == TowerCost(
        bytes=100, latency_ms=3.0, latency_p95_ms=4.0, memory_bytes=5000
    )
    assert (plain.form, rounded.form, rounded.score) == ("onnx", "onnx int8", 0.40)
    assert rounded.rounded and not plain.rounded


@pytest.mark.parametrize("inside", ["", "onnx/image.onnx"])
def test_a_profile_of_an_export_is_its_runs(tmp_path, inside):
    names = {tmp_path / "run": "mine", tmp_path / "out": "mine", tmp_path: "above"}
    found = read_profile(profile(tmp_path / "p.json", tmp_path / "out" / inside), names)
    assert {(each.name, each.form) for each in found} == {("mine", "onnx"), ("mine", "onnx int8")}
    assert read_profile(tmp_path / "p.json", {tmp_path / "other": "other"}) == []


def test_a_profile_of_another_folder_is_not_the_one_aboves(tmp_path):
    path = profile(tmp_path / "p.json", tmp_path / "run" / "other", [eager("image", "inference")])
    assert read_profile(path, {tmp_path / "run": "mine"}) == []
