"""Quantised ExecuTorch and LiteRT files: close to the model in their own runtimes, and smaller."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from students import Student, StudentSpec, TextSpec, build_student, export
from students.exporters.executorch_quantized import quantised
from students.exporters.formats import TOLERANCES
from students.exporters.graph import Graph
from students.exporters.parity import Samples, made_up_samples
from students.exporters.sensitivity import round_weights
from students.exporters.token_tables import tables_as_bytes
from students.exporters.tracing import flat
from teachers.tokenizers import WordTokenizer

LETTERS = "abcdefghijklmnopqrstuvwxyz"
WORDS = [f"w{a}{b}" for a in LETTERS for b in LETTERS[:8]]
TOKENIZER = WordTokenizer.fit([" ".join(WORDS)] * 2, context_length=8)
SAMPLES = made_up_samples(TOKENIZER, count=8)


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
    pixels = torch.randn(4, 3, 32, 32)
    return Graph(
        name=name,
        module=nn.Sequential(tower).eval(),
        inputs=pixels if name == "image" else TOKENIZER([text for _, text in SAMPLES]),
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
    # A few tens of kilobytes say what is computed, whatever the tower's width.
    assert text["bytes"] < 4 * student.text_params * (0.7 if precision == "fp16" else 0.5)


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


def test_a_layer_that_is_kept_stays_float(student: Student) -> None:
    kept = "0.module.text.transformer.resblocks.0.mlp.c_fc"
    bytes_ = []
    for keep_float in ((), (kept,)):
        module = quantised(graph(student, "text", keep_float), dynamic=True)
        values = [*module.buffers(), *module.parameters()]
        bytes_.append(sum(value.numel() for value in values if value.dtype == torch.int8))
    assert bytes_[0] - bytes_[1] == 64 * 256
