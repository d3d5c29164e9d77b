"""Quantised ExecuTorch and LiteRT files: close to the model in their own runtimes, and smaller."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from students import Student, StudentSpec, TextSpec, build_student, export
from students.exporters import executorch, executorch_quantized, litert, litert_quantized
from students.exporters.executorch_quantized import in_4_bits, quantised
from students.exporters.formats import TOLERANCES
from students.exporters.graph import Graph
from students.exporters.parity import Runner, Samples, made_up_samples
from students.exporters.sensitivity import round_weights
from students.exporters.token_tables import tables_as_bytes, tables_as_nibbles
from students.exporters.tracing import flat
from teachers.tokenizers import WordTokenizer

LETTERS = "abcdefghijklmnopqrstuvwxyz"
WORDS = [f"w{a}{b}" for a in LETTERS for b in LETTERS[:8]]
TOKENIZER = WordTokenizer.fit([" ".join(WORDS)] * 2, context_length=8)
SAMPLES = made_up_samples(TOKENIZER, count=8)
PIXELS = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def student() -> Student:
    """Convolutions with settled statistics; a text tower that is mostly its table."""
    torch.manual_seed(0)
    text = TextSpec(width=64, layers=1, heads=2, context_length=8)
    spec = StudentSpec(image="smallconv-8", text=text, embed_dim=32, image_size=32)
    student = build_student(spec, tokenizer=TOKENIZER)
    settle(student, SAMPLES)
    return student


def settle(student: Student, samples: Samples) -> None:
    """Fit batch statistics to the samples, as training would."""
    student.train()
    with torch.no_grad():
        for _ in range(30):
            student.encode_image([image for image, _ in samples])
    student.eval()


def graph(student: Student, name: str, keep_float: tuple[str, ...] = ()) -> Graph:
    tower = student.image_tower if name == "image" else student.text_tower
    return Graph(
        name=name,
        module=nn.Sequential(tower).eval(),
        inputs=PIXELS if name == "image" else TOKENIZER([text for _, text in SAMPLES]),
        batch_size=1,
        interface={},
        facts={},
        keep_float=keep_float,
    )


@pytest.mark.parametrize(
    "variant",
    [
        pytest.param("executorch:int8", marks=pytest.mark.slow),
        "litert:int8",
        pytest.param("executorch:dynamic-int8", marks=pytest.mark.slow),
        pytest.param("executorch:fp16", marks=pytest.mark.slow),
        pytest.param("litert:dynamic-int8", marks=pytest.mark.slow),
        pytest.param("litert:fp16", marks=pytest.mark.slow),
        pytest.param("executorch:4bit-weights", marks=pytest.mark.slow),
        pytest.param("litert:4bit-weights", marks=pytest.mark.slow),
    ],
)
def test_files_are_close_and_smaller(student: Student, tmp_path: Path, variant: str) -> None:
    precision = variant.partition(":")[2]
    report = export(student, tmp_path / "out", formats=(variant,), samples=SAMPLES)
    assert {row["tower"] for row in report.rows} == {"image", "text"}
    for row in report.rows:
        assert 1e-5 < row["relative_error"] <= TOLERANCES[precision]
        assert Path(row["path"]).stem == f"{row['tower']}.{precision}"
    text = report.rows[1]
    # A few tens of kilobytes say what is computed, at any width. A random table, which
    # is most of this tower, is too far off in 4 bits and stays float.
    assert precision != "4bit-weights" or any("token" in name for name in text["kept_float"])
    share = {"fp16": 0.7, "4bit-weights": 1.0}.get(precision, 0.5)
    assert text["bytes"] < 4 * student.text_params * share


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["executorch:int8", "litert:int8"])
def test_two_million_weights_take_less_than_a_third(tmp_path: Path, variant: str) -> None:
    torch.manual_seed(0)
    words = [f"w{a}{b}{c}" for a in LETTERS for b in LETTERS for c in LETTERS[:8]]
    tokenizer = WordTokenizer.fit([" ".join(words)] * 2, context_length=8)
    text = TextSpec(width=192, layers=4, heads=4, context_length=8)
    spec = StudentSpec(image="smallconv-88", text=text, embed_dim=128, image_size=32)
    big = build_student(spec, tokenizer=tokenizer)
    samples = made_up_samples(tokenizer, count=8)
    settle(big, samples)
    for row in export(big, tmp_path / "out", formats=(variant,), samples=samples).rows:
        numbers = getattr(big, f"{row['tower']}_params")
        assert numbers > 2_000_000 and row["bytes"] <= 0.3 * 4 * numbers


def test_a_table_of_bytes_gives_the_rounded_rows(student: Student) -> None:
    text = graph(student, "text")
    table = nn.Embedding(40, 12)
    words = replace(text, module=nn.Sequential(table))
    tokens = words.example % 40
    wanted = round_weights(table.weight.detach(), bits=8)[tokens]
    module = flat(replace(words, inputs=tokens))
    tables_as_bytes(module)
    torch.testing.assert_close(module(tokens), wanted, rtol=1e-6, atol=1e-7)
    assert not torch.equal(module(tokens), table(tokens))
    floats = sum(value.numel() for value in module.buffers() if value.dtype == torch.float32)
    assert floats == len(table.weight), "one scale a row is all that stays float"
    module = flat(replace(words, inputs=tokens))
    tables_as_bytes(module, {"0"})
    assert torch.equal(module(tokens), table(tokens))


@pytest.mark.parametrize(("width", "bits"), [(128, 4), (48, 8)])
def test_a_table_of_nibbles_gives_the_rounded_rows(student: Student, width: int, bits: int) -> None:
    torch.manual_seed(0)
    table = nn.Embedding(40, width)
    words = graph(student, "text")
    words = replace(words, module=nn.Sequential(table), inputs=words.inputs % 40)
    tokens = words.example
    wanted = round_weights(table.weight.detach(), bits=bits, block=32)[tokens]
    module = flat(words)
    tables_as_nibbles(module, (), block=32)
    torch.testing.assert_close(module(tokens), wanted, rtol=1e-6, atol=1e-7)
    bytes_ = sum(value.nbytes for value in module.buffers())
    assert bytes_ == 40 * (width // 2 + width // 32 * 4 if bits == 4 else width + 4)
    module = flat(words)
    tables_as_nibbles(module, {"0"}, block=32)
    assert torch.equal(module(tokens), table(tokens))


class Mixed(nn.Module):
    """A convolution and three linear layers: in blocks, with no whole block, and kept."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 64, 8, stride=8)
        self.wide = nn.Linear(64, 40)
        self.narrow = nn.Linear(40, 64)
        self.kept = nn.Linear(64, 32)
        self.act = nn.GELU()

    def forward(self, pixels: Tensor) -> Tensor:
        rows = self.first(pixels).flatten(2).mT
        return self.kept(self.act(self.narrow(self.act(self.wide(rows))))).mean(dim=1)


@pytest.fixture
def mixed(student: Student) -> Graph:
    torch.manual_seed(0)
    module = nn.Sequential(Mixed()).eval()
    return replace(graph(student, "image", keep_float=("0.kept",)), module=module)


def from_rounding(graph: Graph, run: Runner) -> tuple[float, float]:
    """Return how far a file is from the model, and from the model with weights rounded likewise."""
    shipped = torch.cat([torch.from_numpy(run(row[None].numpy())) for row in PIXELS])
    with torch.no_grad():
        truth = graph.module(PIXELS)
        for name, bits in (("wide", 4), ("narrow", 8), ("first", 8)):
            weight = graph.module[0].get_submodule(name).weight
            weight.copy_(round_weights(weight, bits=bits, block=32 if bits == 4 else None))
        rounded = graph.module(PIXELS)
    spread = torch.pdist(truth).mean()
    far, near = ((rows - shipped).norm(dim=1).max() / spread for rows in (truth, rounded))
    return far.item(), near.item()


@pytest.mark.slow
def test_linear_layers_have_4_bits_in_blocks_in_executorch(mixed: Graph, tmp_path: Path) -> None:
    held = [v for v in in_4_bits(mixed).buffers() if v.dtype == torch.int8 and v.ndim > 1]
    weights = {value.shape: int(value.abs().max()) for value in held if value.any()}
    assert weights[40, 64] == 7 and weights[64, 40] == 127
    assert weights[64, 3, 8, 8] == 127 and (32, 64) not in weights
    kept = in_4_bits(replace(mixed, keep_float=("0.first",)))
    assert (64, 3, 8, 8) not in {v.shape for v in kept.buffers() if v.dtype == torch.int8}
    executorch_quantized.write_4bit_weights(mixed, tmp_path / "image.pte")
    far, near = from_rounding(mixed, executorch.open_file(tmp_path / "image.pte"))
    assert near < 0.03 and far > 2 * near, "the weights' rounding is nearly all of the error"


def test_linear_layers_have_4_bits_in_blocks_in_litert(mixed: Graph, tmp_path: Path) -> None:
    path = tmp_path / "image.tflite"
    litert_quantized.write_4bit_weights(mixed, path)
    details = litert.interpreter(path.read_bytes()).get_tensor_details()
    kinds = {tuple(d["shape"]): np.dtype(d["dtype"]).name for d in details if len(d["shape"]) > 1}
    # The interpreter calls four bits int8, too; two scales a row are theirs alone.
    assert kinds[40, 64] == kinds[64, 40] == kinds[64, 8, 8, 3] == "int8"
    assert kinds[40, 2] == "float16" and kinds[32, 64] == "float32"
    far, near = from_rounding(mixed, litert.open_file(path))
    assert near < 0.03 and far > 2 * near, "the weights' rounding is nearly all of the error"


def test_a_layer_that_is_kept_stays_float(student: Student) -> None:
    kept = "0.module.text.transformer.resblocks.0.mlp.c_fc"
    bytes_ = []
    for keep_float in ((), (kept,)):
        module = quantised(graph(student, "text", keep_float), dynamic=True)
        values = [*module.buffers(), *module.parameters()]
        bytes_.append(sum(value.numel() for value in values if value.dtype == torch.int8))
    assert bytes_[0] - bytes_[1] == 64 * 256
