"""ONNX files with fp16 and 4-bit weights, `.ort` files, and the token table in all of them."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from students import OpenClipSpec, Student, StudentSpec, TextSpec, build_student, export
from students.exporters import onnx_weights
from students.exporters.formats import FORMATS
from students.exporters.graph import Graph
from students.exporters.onnx import open_file
from students.exporters.ort import CONFIG_FILE
from students.exporters.parity import made_up_samples
from teachers.tokenizers import WordTokenizer

TOKENIZER = WordTokenizer.fit([f"word{chr(97 + i)}" for i in range(26)] * 2, context_length=8)
SAMPLES = made_up_samples(TOKENIZER, count=8)
# Bytes a number: of the whole file, biases, norms and graph included.
SIZES = {"none": 4.0, "fp16": 2.0, "int8": 1.0, "dynamic-int8": 1.0, "4bit-weights": 0.625}

VARIANTS = ("onnx:fp16", "onnx:4bit-weights", "ort:dynamic-int8")


@pytest.fixture(scope="module")
def student() -> Student:
    torch.manual_seed(0)
    vision = {"layers": 1, "width": 64, "head_width": 32, "patch_size": 8, "image_size": 32}
    text = {"layers": 1, "width": 64, "heads": 2}
    spec = OpenClipSpec(model="ViT-B-32", vision=vision, text=text, embed_dim=32)
    return build_student(spec, tokenizer=TOKENIZER)


@pytest.fixture(scope="module")
def folder(student: Student, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("export") / "out"
    report = export(student, out, formats=VARIANTS, samples=SAMPLES, tolerance=0.1)
    most = {"none": 1e-4, "fp16": 1e-2, "dynamic-int8": 0.1, "4bit-weights": 0.1}
    for row in report.rows:
        assert 1e-8 < row["relative_error"] <= most[row["quantize"]]
        numbers = getattr(student, f"{row['tower']}_params")
        if row["quantize"] in ("none", "fp16"):  # integers keep many layers of a random tower float
            assert row["bytes"] < 1.5 * SIZES[row["quantize"]] * numbers + 50_000
    return out


def test_an_ort_file_is_one_and_says_what_it_is(folder: Path) -> None:
    import onnxruntime

    for path in (folder / "ort").glob("*.ort"):
        assert path.read_bytes()[4:8] == b"ORTM", "the mark of ONNX Runtime's format"
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        said = session.get_modelmeta().custom_metadata_map
        assert "clip_distill.logit_scale" in said
    config = (folder / "ort" / CONFIG_FILE).read_text()
    assert "com.microsoft;1;" in config and "ai.onnx;" in config
    assert str(folder.parent) not in config and "# text.dynamic-int8.ort\n" in config


# ONNX Runtime orders what is in .ort files as it likes.
@pytest.mark.slow
@pytest.mark.parametrize("name", ["onnx", "executorch", "litert"])
def test_a_second_export_gives_the_same_bytes(name: str, student: Student, tmp_path: Path) -> None:
    formats = [f"{name}:{precision}" for precision in FORMATS[name].write]
    for out in ("once", "again"):
        export(student, tmp_path / out, formats=formats, samples=SAMPLES, tolerance=0.5)
    written = sorted((tmp_path / "once" / name).glob(f"*{FORMATS[name].suffix}"))
    assert len(written) == 2 * len(formats)
    for path in written:
        again = tmp_path / "again" / name / path.name
        assert path.read_bytes() == again.read_bytes(), path.name


@pytest.mark.parametrize("quantize", ["fp16", "int8", "dynamic-int8", "4bit-weights"])
def test_the_token_table_shrinks_with_the_rest(quantize: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    text = TextSpec(width=32, layers=1, heads=2, context_length=16)
    spec = StudentSpec(image="smallconv-8", text=text, embed_dim=16, image_size=32)
    student = build_student(spec)
    tokens = student.tokenizer(["a red cat", "two dogs on a house", "one", "it's"])
    graph = Graph(
        name="text",
        module=nn.Sequential(student.text_tower).eval(),
        inputs=tokens,
        batch_size=1,
        interface={"input": "tokens", "output": "rows"},
        facts={},
    )
    path = tmp_path / "text.onnx"
    FORMATS["onnx"].write[quantize](graph, path)
    table = 49408 * 32
    size = path.stat().st_size
    assert size < 1.02 * SIZES[quantize] * table + 100_000, "the table is nearly all of this tower"
    with torch.no_grad():
        truth = graph.module(tokens)
    made = torch.from_numpy(np.concatenate([open_file(path)(row[None].numpy()) for row in tokens]))
    assert (made - truth).norm(dim=1).max() < 0.5 * torch.pdist(truth).mean()


class Convolutions(nn.Module):
    """A narrow one, a depthwise one, and two wide ones of which one is kept."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 64, 3)
        self.deep = nn.Conv2d(64, 128, 3, groups=64)
        self.wide = nn.Conv2d(128, 64, 3)
        self.kept = nn.Conv2d(64, 64, 1)
        self.head = nn.Linear(64, 96)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.head(self.kept(self.wide(self.deep(self.first(pixels)))).mean(dim=(2, 3)))


def test_convolutions_are_rounded_as_the_sensitivity_says(tmp_path: Path) -> None:
    from students.exporters.sensitivity import round_weights

    torch.manual_seed(0)
    tower = nn.Sequential(Convolutions()).eval()
    pixels = torch.randn(3, 3, 16, 16)
    graph = Graph(
        name="image",
        module=tower,
        inputs=pixels,
        batch_size=None,
        interface={"input": "pixels", "output": "rows"},
        facts={},
        keep_float=("0.kept", "0.head"),
    )
    onnx_weights.write_4bit_weights(graph, tmp_path / "image.onnx")
    model = onnx.load(tmp_path / "image.onnx")
    nodes = [node for node in model.graph.node if node.op_type == "DequantizeLinear"]
    kinds = {init.name: init.data_type for init in model.graph.initializer}
    assert sorted(kinds[node.input[0]] for node in nodes) == [3, 3, 22], "int8 twice, int4 once"
    assert all(node.op_type != "MatMulNBits" for node in model.graph.node)
    with torch.no_grad():
        for name in ("first", "deep", "wide"):
            weight = tower[0].get_submodule(name).weight
            weight.copy_(round_weights(weight, bits=4, block=32))
        wanted = tower(pixels)
    made = open_file(tmp_path / "image.onnx")(pixels.numpy())
    torch.testing.assert_close(torch.from_numpy(made), wanted, atol=1e-4, rtol=1e-4)
