"""Each format's file, run in that format's own runtime, says what the model says."""

import json
from pathlib import Path

import pytest
import torch

from students import (
    OpenClipSpec,
    Student,
    StudentSpec,
    TextSpec,
    build_student,
    export,
    load_student,
)
from students.exporters.onnx import open_file
from students.exporters.parity import Reference, made_up_samples
from teachers.tokenizers import WordTokenizer

TOKENIZER = WordTokenizer.fit(["a red cat on two dogs"], context_length=8)
SAMPLES = made_up_samples(TOKENIZER, count=5)


def tiny() -> Student:
    """An open_clip ViT with a text tower of words, both of one layer."""
    torch.manual_seed(0)
    vision = {"layers": 1, "width": 32, "head_width": 16, "patch_size": 8, "image_size": 32}
    text = {"layers": 1, "width": 32, "heads": 2}
    spec = OpenClipSpec(model="ViT-B-32", vision=vision, text=text, embed_dim=16)
    return build_student(spec, tokenizer=TOKENIZER)


def convolutional() -> Student:
    """The demo's student, smaller, its statistics settled, as training leaves it in memory."""
    torch.manual_seed(0)
    text = TextSpec(width=32, layers=2, heads=2, context_length=8)
    spec = StudentSpec(image="smallconv-8", text=text, embed_dim=16, image_size=32)
    student = build_student(spec, tokenizer=TOKENIZER).train()
    student.module.to(memory_format=torch.channels_last)
    with torch.no_grad():
        for _ in range(30):
            student.encode_image([picture for picture, _ in SAMPLES])
    return student


@pytest.fixture(scope="module")
def student() -> Student:
    return tiny()


@pytest.fixture(scope="module", params=[tiny, pytest.param(convolutional, marks=pytest.mark.slow)])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("export") / "out"
    export(request.param(), out, formats=("executorch", "litert"), samples=SAMPLES)
    return out


@pytest.mark.parametrize("name", ["image", "text"])
@pytest.mark.parametrize("backend", ["executorch", "litert"])
def test_every_file_agrees(folder: Path, backend: str, name: str) -> None:
    towers = json.loads((folder / "metadata.json").read_text())["towers"]
    (row,) = [row for row in towers if (row["format"], row["tower"]) == (backend, name)]
    assert 0 < row["relative_error"] <= 1e-4
    assert row["input_shape"][0] == 1
    assert row["input_dtype"] == (
        "float32" if name == "image" else {"executorch": "int64", "litert": "int32"}[backend]
    )
    assert (folder / row["path"]).stat().st_size == row["bytes"]
    assert isinstance(load_student(folder), Student)


@pytest.mark.slow
def test_a_classifier_and_bytes_in_onnx(student: Student, tmp_path: Path) -> None:
    classes = {"cat": ["a cat", "a red cat"], "dogs": ["two dogs"], "red": ["red"]}
    report = export(
        student,
        tmp_path / "out",
        samples=SAMPLES,
        classes=classes,
        preprocessing_inside=True,
        batch_size=2,
    )
    assert [row["tower"] for row in report.rows] == ["image", "text", "zero_shot"]
    assert all(row["relative_error"] <= 1e-4 for row in report.rows)
    metadata = json.loads((tmp_path / "out" / "metadata.json").read_text())
    assert metadata["classes"] == ["cat", "dogs", "red"] and metadata["preprocessing_inside"]
    image, _, zero_shot = metadata["towers"]
    assert image["input_shape"] == [2, 32, 32, 3] and image["input_dtype"] == "uint8"
    assert zero_shot["output_shape"] == [2, 3]
    run = open_file(tmp_path / "out" / zero_shot["path"])
    pixels = Reference(student, SAMPLES, inside=True).inputs(tmp_path / "out", "image")[:2]
    with torch.no_grad():
        rows = student.encode_image([image for image, _ in SAMPLES[:2]])
        vectors = [student.encode_text(prompts).mean(dim=0) for prompts in classes.values()]
        vectors = torch.nn.functional.normalize(torch.stack(vectors), dim=-1)
        wanted = student.logit_scale.exp() * rows @ vectors.T
    torch.testing.assert_close(torch.from_numpy(run(pixels.numpy())), wanted, atol=1e-4, rtol=1e-4)
