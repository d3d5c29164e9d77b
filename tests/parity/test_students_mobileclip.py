"""Catalog students with random weights: inference form and files give what training gives."""

from pathlib import Path

import pytest
import torch
from torch import nn

from students import build_student, export
from students.exporters.parity import made_up_samples


def liven(module: nn.Module) -> None:
    """Give a fresh tower something to fold: batch statistics, and layers that are not near zero.

    At birth FastViT's layer scales are 1e-5: every picture gets the same embedding, and any two
    forms of the tower agree.
    """
    for name, value in module.named_parameters():
        if name.endswith("gamma"):
            nn.init.constant_(value, 0.5)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.normal_(part.running_mean, std=0.1)
            nn.init.uniform_(part.running_var, 0.5, 2.0)
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.normal_(part.bias, std=0.1)


def test_the_folded_form_agrees_relative_to_the_spread() -> None:
    torch.manual_seed(0)
    student = build_student("MobileCLIP2-S0")
    liven(student.module.visual)
    folded = student.reparameterize()
    pixels = torch.rand(3, 3, 256, 256)
    tokens = student.tokenizer(["a cat", "two dogs on a sofa", "rain"])
    student.eval()
    with torch.no_grad():
        trained, shipped = student(pixels, tokens), folded(pixels, tokens)
    spread = (trained.image[0] - trained.image[1:]).norm(dim=-1).mean()
    assert spread > 1e-3
    assert (trained.image - shipped.image).norm(dim=-1).max() / spread < 1e-3
    assert (trained.image - shipped.image).abs().max() < 1e-5
    assert torch.equal(trained.text, shipped.text)
    before = sum(value.numel() for value in student.module.visual.parameters())
    after = sum(value.numel() for value in folded.module.visual.parameters())
    assert after < before == 11_406_976


@pytest.mark.slow
@pytest.mark.parametrize("format_name", ["onnx", "executorch", "litert"])
@pytest.mark.parametrize(
    "name",
    [
        *("MobileCLIP2-S0", "MobileCLIP-S1"),
        *("TinyCLIP-ViT-8M-16-Text-3M", "mobilenetv4-small-text6"),
    ],
)
def test_the_exported_towers_agree(tmp_path: Path, name: str, format_name: str) -> None:
    torch.manual_seed(0)
    student = build_student(name)
    liven(student.module.visual)
    for part in student.module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.reset_running_stats()
            part.momentum = None  # the mean over all batches seen
    samples = made_up_samples(student.tokenizer, count=8)
    student.train()
    with torch.no_grad():
        for _ in range(2):
            student.encode_image([image for image, _ in samples])
    report = export(student.eval(), tmp_path / "out", formats=(format_name,), samples=samples)
    assert [row["tower"] for row in report.rows] == ["image", "text"]
    assert max(row["relative_error"] for row in report.rows) <= 1e-4
