"""Integers are calibrated on the views that a run learned from, exactly, or it is said why not."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from distill.calibration_samples import shard_calibration, stored_calibration
from distill.cli import main
from distill.config import DataConfig, RunConfig
from reinforced_data import open_dataset, reinforce
from reinforced_data.testing import TOKENIZER, picture, tiny_teacher, write_source
from students import Student, StudentSpec, TextSpec, build_student, load_student


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a training leaves, as far as an export looks at it."""
    folder = tmp_path_factory.mktemp("run")
    write_source(folder / "source", 12)
    reinforce(str(folder / "source"), folder / "store", teachers=tiny_teacher(), num_views=3)
    torch.manual_seed(0)
    text = TextSpec(width=32, layers=1, heads=2, context_length=TOKENIZER.context_length)
    spec = StudentSpec(image="smallconv-8", text=text, embed_dim=16, image_size=32)
    student = build_student(spec, tokenizer=TOKENIZER).train()
    with torch.no_grad():
        for _ in range(30):  # batch statistics that fit, or pictures are hardly told apart
            student.encode_image([picture(seed) for seed in range(12)])
    student.save(folder / "run")
    config = RunConfig(data=DataConfig(store=str(folder / "store"), views=2), seed=5)
    (folder / "run" / "config.json").write_text(json.dumps(config.as_json()))
    return folder / "run"


def loaded(run: Path) -> Student:
    return load_student(run)


def test_the_stored_views_are_replayed(run: Path) -> None:
    student, dataset = loaded(run), open_dataset(run.with_name("store"))
    found = stored_calibration(student, run, 8)
    (batch,) = dataset.loader(
        preprocess=student.preprocess,
        tokenizer=student.tokenizer,
        batch_size=8,
        num_steps=1,
        seed=5,
        views=2,
    )
    assert torch.equal(found.pixels, batch.pixels) and torch.equal(found.tokens, batch.tokens)
    assert found.origin["first_keys"] == batch.keys[:3] and found.origin["views"] == 8
    assert len(stored_calibration(student, run, 99).pixels) == 12, "there are no more"
    other = shard_calibration(student, str(run.with_name("source")), 8)
    assert len(other.pixels) == 8 and other.origin["sha256"] != found.origin["sha256"]


@pytest.mark.slow
def test_from_the_command_line(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["export", str(run), str(tmp_path / "out"), "--formats", "onnx:int8"]
    assert main([*asked, "--calibration-samples", "8"]) == 0
    said = json.loads((tmp_path / "out" / "metadata.json").read_text())
    assert said["calibrated_on"] == stored_calibration(loaded(run), run, 8).origin
    assert said["checked_on"] == {"samples": 12, "from": "given pictures and texts"}
    assert [tower["quantize"] for tower in said["towers"]] == ["int8", "int8"]
    assert "best alike" in capsys.readouterr().out


@pytest.mark.slow
def test_without_the_store_it_is_said(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = shutil.copytree(run, tmp_path / "run")
    config = json.loads((moved / "config.json").read_text())
    config["data"]["store"] = str(tmp_path / "gone")
    (moved / "config.json").write_text(json.dumps(config))
    assert main(["export", str(moved), str(tmp_path / "out")]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "gone is not a reinforced dataset" in said and "give --samples SHARDS" in said
    metadata = json.loads((tmp_path / "out" / "metadata.json").read_text())
    assert metadata["checked_on"]["from"] == "made-up pictures and words"
    assert metadata["calibrated_on"] is None
