"""Files are timed in their own runtimes, each in a process whose peak memory is its own."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from distill.cli import main
from students import OpenClipSpec, build_student, export
from students.exporters.parity import made_up_samples
from students.exporters.profiling import _memory_above, _memory_now, exported_files
from teachers.tokenizers import WordTokenizer

TOKENIZER = WordTokenizer.fit(["a red cat on two dogs"], context_length=8)
FORMATS = ("onnx", "executorch", "litert")


def exported(folder: Path, formats: tuple[str, ...]) -> Path:
    """A student in `folder/run`, and its files in `folder/out`."""
    torch.manual_seed(0)
    vision = {"layers": 1, "width": 32, "head_width": 16, "patch_size": 16, "image_size": 32}
    text = {"layers": 1, "width": 32, "heads": 2}
    spec = OpenClipSpec(model="ViT-B-32", vision=vision, text=text, embed_dim=16)
    student = build_student(spec, tokenizer=TOKENIZER)
    student.save(folder / "run")
    export(student, folder / "out", formats=formats, samples=made_up_samples(TOKENIZER, count=4))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("formats", [FORMATS[:1], FORMATS])
def test_the_model_and_every_file_are_in_one_answer(
    formats: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = exported(tmp_path, formats)
    asked = ["profile", str(place / "run"), "--files", str(place / "out"), "--batch-size", "2"]
    out = place / "out" / "profile.json"
    assert main([*asked, "--warmup", "1", "--repeats", "3", "--out", str(out), "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values == json.loads(out.read_text())
    assert (values["threads"], values["warmup"], values["repeats"]) == (1, 1, 3)
    assert [(row["tower"], row["form"]) for row in values["towers"]] == [
        (tower, form) for tower in ("image", "text") for form in ("training", "inference")
    ]
    assert [(row["form"], row["tower"]) for row in values["files"]] == [
        (name, tower) for name in formats for tower in ("image", "text")
    ]
    for row in [*values["towers"], *values["files"]]:
        assert 0 < row["latency_ms"] <= row["latency_p95_ms"]
        assert 0 < row["memory_bytes"] < 3e8, "a runtime's own memory was to be left out"
    for row in values["files"]:
        assert row["bytes"] == (place / "out" / row["path"]).stat().st_size
        assert row["batch_size"] == (2 if row["form"] == "onnx" else 1)
        assert row["threads"] == (None if row["form"] == "executorch" else 1)


@pytest.mark.slow
def test_one_file_alone_and_what_does_not_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = exported(tmp_path, ("onnx",)) / "out"
    assert main(["profile", str(out / "onnx/image.onnx"), "--repeats", "2"]) == 0
    said = capsys.readouterr().out
    assert "onnx" in said and "training" not in said and "text" not in said
    (out / "onnx/image.onnx").write_bytes(b"no model")
    assert main(["profile", str(out / "onnx/image.onnx")]) == 1
    assert "cannot be measured" in capsys.readouterr().err
    with pytest.raises(ValueError, match="is no export and no file of one"):
        exported_files(out / "student.json")


def test_a_peak_is_counted_from_where_it_was_reset() -> None:
    before = _memory_now()
    if before is None:
        pytest.skip("this system does not tell a process its peak")
    # 268 MB: large beside what other threads of a worker free and take meanwhile.
    numbers = np.ones(2**25)
    del numbers
    assert (_memory_above(before) or 0) > 240e6
    again = _memory_now()
    assert (_memory_above(again) or 0) < 120e6
