"""The exported folder does what the model does, and the check of that can fail."""

import gzip
import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from students import Student, StudentSpec, TextSpec, build_student, export, load_student
from students.exporters.feeding import write_feeding
from students.exporters.onnx import open_file
from students.exporters.parity import Reference, made_up_samples
from teachers.tokenizers import WordTokenizer

TOKENIZER = WordTokenizer.fit(["a red cat on two dogs"], context_length=8)
SAMPLES = made_up_samples(TOKENIZER, count=7)


def settled(image: str, size: int, **changes: object) -> Student:
    """A student whose batch statistics fit its inputs, as after training."""
    torch.manual_seed(0)
    text = TextSpec(width=32, layers=2, heads=2, context_length=8)
    spec = StudentSpec(image=image, text=text, embed_dim=16, image_size=size, **changes)
    student = build_student(spec, tokenizer=TOKENIZER, kind="sigmoid").train()
    with torch.no_grad():
        for _ in range(30):
            student.encode_image([picture for picture, _ in SAMPLES])
    return student


@pytest.fixture(scope="module")
def student() -> Student:
    return settled("smallconv-8", 32, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))


@pytest.fixture(scope="module")
def folder(student: Student, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("export") / "out"
    killed = out.with_name(".out.partial")
    killed.mkdir()
    (killed / "left-behind").touch()
    report = export(student, out, samples=SAMPLES)
    assert student.training and not killed.exists() and not (out / "left-behind").exists()
    assert [(row["format"], row["tower"]) for row in report.rows] == [
        ("onnx", "image"),
        ("onnx", "text"),
    ]
    for row in report.rows:
        assert 0 < row["relative_error"] <= 1e-4
        assert row["bytes"] == Path(row["path"]).stat().st_size
        assert row["latency_ms"] > 0
    return out


@pytest.mark.slow
def test_a_timm_tower_agrees_too(tmp_path: Path) -> None:
    report = export(settled("test_vit", 64), tmp_path / "out", samples=SAMPLES)
    assert max(row["relative_error"] for row in report.rows) <= 1e-4


def test_any_batch_size_runs(folder: Path, student: Student) -> None:
    reference = Reference(student, SAMPLES)
    for tower in ("image", "text"):
        run = open_file(folder / f"onnx/{tower}.onnx")
        inputs = reference.inputs(folder, tower)
        for n in (1, 3, 7):
            rows = run(inputs[:n].numpy())
            assert rows.dtype == np.float32
            np.testing.assert_allclose(rows, reference.rows[tower][:n].numpy(), atol=1e-5)
            np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)


def test_the_folder_is_a_student_again(folder: Path, student: Student) -> None:
    loaded = load_student(folder)
    reference = Reference(student, SAMPLES)
    with torch.no_grad():
        assert torch.equal(loaded.encode_image(reference.images), reference.rows["image"])
        assert torch.equal(loaded.encode_text(reference.texts), reference.rows["text"])


def test_the_metadata_describes_the_files(folder: Path, student: Student) -> None:
    import onnx

    metadata = json.loads((folder / "metadata.json").read_text())
    paths = [path for path in folder.rglob("*") if path.is_file()]
    names = {path.relative_to(folder).as_posix() for path in paths} - {"metadata.json"}
    assert set(metadata["files"]) == names >= {"onnx/image.onnx", "onnx/text.onnx", "student.json"}
    for name, facts in metadata["files"].items():
        content = (folder / name).read_bytes()
        assert facts == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    assert metadata["logit_scale"] == pytest.approx(10.0)
    assert metadata["logit_bias"] == -10
    assert metadata["preprocessing"]["mean"] == [0.4, 0.5, 0.6]
    for tower in metadata["towers"]:
        model = onnx.load(folder / tower["path"])
        (given,), (made,) = model.graph.input, model.graph.output
        assert (given.name, made.name) == (tower["input"], tower["output"])
        sizes = [dim.dim_value for dim in given.type.tensor_type.shape.dim]
        assert sizes == [0, *tower["input_shape"][1:]]
        said = {entry.key: json.loads(entry.value) for entry in model.metadata_props}
        assert said["clip_distill.logit_scale"] == pytest.approx(10.0)
        # Exporters like to leave stack traces, with the paths of the machine, on every node.
        assert not any(node.metadata_props or node.doc_string for node in model.graph.node)


@pytest.mark.parametrize(
    ("file", "key", "value", "tower"),
    [
        ("preprocessing.json", "mean", [0.0, 0.0, 0.0], "image"),
        ("preprocessing.json", "interpolation", "bilinear", "image"),
        ("tokenizer.json", "words", ["cat", "a", "dogs", "on", "red", "two"], "text"),
    ],
)
def test_a_wrong_file_beside_a_right_tower_is_found(
    folder: Path, student: Student, tmp_path: Path, file: str, key: str, value: object, tower: str
) -> None:
    reference, run = Reference(student, SAMPLES), open_file(folder / f"onnx/{tower}.onnx")
    config = json.loads((folder / file).read_text())
    (tmp_path / file).write_text(json.dumps(config))
    assert reference.check(run, tmp_path, tower, 1e-4) <= 1e-4
    (tmp_path / file).write_text(json.dumps({**config, key: value}))
    with pytest.raises(RuntimeError, match=f"the exported {tower} tower disagrees"):
        reference.check(run, tmp_path, tower, 1e-4)


def test_a_constant_tower_is_found(folder: Path, student: Student) -> None:
    reference = Reference(student, SAMPLES)
    row = reference.rows["image"].mean(dim=0, keepdim=True).numpy()
    with pytest.raises(RuntimeError, match="relative error"):
        reference.check(lambda batch: row.repeat(len(batch), 0), folder, "image", 1e-4)


class Constant(nn.Module):
    """Says the same of all pictures, which any exporter gets right to the last bit."""

    def __init__(self) -> None:
        super().__init__()
        self.row = nn.Parameter(torch.ones(1, 4))
        self.words = nn.Embedding(TOKENIZER.vocab_size, 4)
        self.logit_scale = nn.Parameter(torch.tensor(2.0))

    def encode_image(self, images: torch.Tensor) -> torch.Tensor:
        return self.row + 0 * images.mean(dim=(1, 2, 3))[:, None]

    def encode_text(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.words(tokens).mean(dim=1)


def test_a_constant_model_passes_no_check_and_leaves_nothing(tmp_path: Path) -> None:
    constant = build_student(Constant(), image_size=16, tokenizer=TOKENIZER)
    with pytest.raises(RuntimeError, match="cannot be checked"):
        export(constant, tmp_path / "out", samples=SAMPLES)
    assert not list(tmp_path.iterdir())


def test_a_failed_export_keeps_the_earlier_one(folder: Path, student: Student) -> None:
    before = (folder / "metadata.json").read_bytes()
    with pytest.raises(RuntimeError, match="above 1e-12"):
        export(student, folder, samples=SAMPLES, tolerance=1e-12)
    assert (folder / "metadata.json").read_bytes() == before
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_clips_vocabulary_comes_along(tmp_path: Path) -> None:
    spec = StudentSpec(
        image="smallconv-8",
        text=TextSpec(width=8, layers=1, heads=1, context_length=12),
        embed_dim=8,
        image_size=32,
    )
    write_feeding(build_student(spec), tmp_path)
    config = json.loads((tmp_path / "tokenizer.json").read_text())
    assert (config["context_length"], config["vocab_size"]) == (12, 49408)
    with gzip.open(tmp_path / config["vocabulary"], "rt", encoding="utf-8") as merges:
        assert sum(1 for _ in merges) > 48_000


def test_wrong_requests_say_what_to_do(student: Student, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no export format 'tflite'; did you mean 'litert'"):
        export(student, tmp_path / "out", formats=("onnx", "tflite"))
    with pytest.raises(ValueError, match=r"two .* samples or more"):
        export(student, tmp_path / "out", samples=SAMPLES[:1])
    same = [(Image.new("RGB", (40, 40)), "a cat")] * 3
    with pytest.raises(ValueError, match="at least two different image samples"):
        export(student, tmp_path / "out", samples=same)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(ValueError, match="nothing of yours is overwritten"):
        export(student, tmp_path / "mine")
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_missing_extra_says_what_to_install(
    student: Student, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # as if it were not installed
    with pytest.raises(ValueError, match=r'onnxruntime: pip install "clip-distill\[onnx\]"'):
        export(student, tmp_path / "out")
