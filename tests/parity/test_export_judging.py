"""Files together: a constant file fails every check, and a metric that falls too far fails."""

from pathlib import Path

import numpy as np
import pytest
import torch

from students import Student, StudentSpec, TextSpec, build_student, export
from students.exporters.feeding import write_feeding
from students.exporters.formats import TOLERANCES, Variant
from students.exporters.judging import Judge
from students.exporters.parity import ParityError, Reference, made_up_samples
from teachers.clip_model import ClipModel
from teachers.tokenizers import WordTokenizer

TOKENIZER = WordTokenizer.fit(["a red cat on two dogs"], context_length=8)
SAMPLES = made_up_samples(TOKENIZER, count=12)


@pytest.fixture(scope="module")
def student() -> Student:
    """Batch statistics fit the inputs, so that pictures are told apart."""
    torch.manual_seed(0)
    text = TextSpec(width=32, layers=1, heads=2, context_length=8)
    spec = StudentSpec(image="smallconv-8", text=text, embed_dim=16, image_size=32)
    student = build_student(spec, tokenizer=TOKENIZER).train()
    with torch.no_grad():
        for _ in range(30):
            student.encode_image([picture for picture, _ in SAMPLES])
    return student


@pytest.mark.parametrize("quantize", list(TOLERANCES))
def test_a_constant_file_fails_every_check(student: Student, tmp_path: Path, quantize: str) -> None:
    write_feeding(student, tmp_path)
    reference, tolerance = Reference(student, SAMPLES), TOLERANCES[quantize]

    def likeness(model: ClipModel) -> float:
        found = model.encode_image([picture for picture, _ in SAMPLES])
        return float((found @ reference.rows["image"].T).diag().mean())

    judge = Judge(student, reference, likeness, 0.01)
    variant = Variant("onnx", quantize)
    told: dict[str, torch.Tensor] = {**reference.rows}
    assert judge.verdict(variant, told, _runs(told))["order_alike"] == 1
    row = reference.rows["image"].mean(0, keepdim=True).numpy()

    def constant(batch: np.ndarray) -> np.ndarray:
        return row.repeat(len(batch), 0)

    with pytest.raises(ParityError, match="relative error"):
        reference.check(constant, tmp_path, "image", tolerance)
    shipped = told | {"image": torch.from_numpy(constant(np.zeros(len(SAMPLES))))}
    with pytest.raises(ParityError, match="decide otherwise than the model"):
        judge.verdict(variant, shipped, _runs(told))
    with pytest.raises(ParityError, match="of likeness"):
        judge.verdict(variant, told, _runs(told) | {"image": constant})


def _runs(rows: dict) -> dict:
    """Runners that know the answers; for pictures alone, in order."""
    return {
        name: lambda batch, told=told: told[: len(batch)].numpy() for name, told in rows.items()
    }


@pytest.mark.slow
def test_metrics_of_files_are_measured_and_limited(student: Student, tmp_path: Path) -> None:
    seen: list[ClipModel] = []

    def metric(model: ClipModel) -> float:
        seen.append(model)
        with torch.no_grad():
            rows = model.encode_image([picture for picture, _ in SAMPLES[:3]])
            texts = model.encode_text([text for _, text in SAMPLES[:3]])
        return float((rows @ texts.T).trace()) - (len(seen) - 1) * drop

    drop = 0.005
    report = export(student, tmp_path / "out", samples=SAMPLES, metric=metric)
    (verdict,) = report.verdicts
    assert verdict["metric_of_model"] is not None
    assert verdict["metric"] == pytest.approx(verdict["metric_of_model"] - drop, abs=1e-4)
    assert verdict["top1_alike"] == verdict["order_alike"] == 1
    assert verdict["order_decided"] > 100 and len(seen) == 2
    drop, seen = 0.02, []
    with pytest.raises(ParityError, match=r"lose 0\.02.*max_metric_loss 0\.01.*onnx/text\.onnx"):
        export(student, tmp_path / "out2", samples=SAMPLES, metric=metric)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
