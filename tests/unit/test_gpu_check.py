"""The GPU check's judgement, and that the baseline computes the loss it is timed for."""

import importlib
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from distill.ops import Embeddings, image_text_loss

OPS = Path(__file__).parents[2] / "benchmarks" / "ops"


@pytest.fixture
def load(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(OPS), str(OPS.parent), *sys.path])
    return importlib.import_module


def embeddings(n, width):
    rows = (F.normalize(torch.randn(n, width)).requires_grad_() for _ in range(2))
    return Embeddings(*rows, torch.tensor(20.0, requires_grad=True), torch.tensor(-5.0))


@pytest.mark.parametrize("count", [0, 2])
def test_the_strong_baseline_computes_our_loss(load, count):
    chunked = load("competitors")._chunked_softmax
    student, teachers = embeddings(40, 8), [embeddings(40, 12) for _ in range(count)]
    theirs = chunked(student, teachers, strip=16)
    ours = sum(image_text_loss(student, teachers, impl="reference"))
    torch.testing.assert_close(theirs, ours)
    leaves = student[:3]
    gradients = [torch.autograd.grad(loss, leaves) for loss in (theirs, ours)]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "ours, rival, wanted",
    [
        (30.0, 125.0, "pass"),
        (30.0, 119.0, "fail"),
        (34.1, 200.0, "fail"),
        (34.1, None, "fail"),
        (30.0, None, "not measured"),
        (None, 100.0, "not measured"),
    ],
)
def test_verdicts(load, ours, rival, wanted):
    check = load("gpu_check")
    made = [time and check.Measured(milliseconds=time, peak_mib=0.0) for time in (ours, rival)]
    assert check.verdict(check.GOALS[0], *made) == wanted


@pytest.mark.skipif(torch.cuda.is_available(), reason="with a GPU it would run")
def test_without_a_gpu_nothing_is_measured(load, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["gpu_check.py"])
    assert load("gpu_check").main() == 2
    assert "not measured" in capsys.readouterr().out
