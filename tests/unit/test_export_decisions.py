"""Which decisions count as clear, and what a file may not be excused for."""

import pytest
import torch

from students.exporters.decisions import best_alike, order_alike

torch.manual_seed(0)
MODEL = torch.nn.functional.normalize(torch.randn(12, 8), dim=1)


@pytest.mark.parametrize("alike", [best_alike, order_alike])
def test_an_equal_file_decides_alike(alike) -> None:
    found = alike(MODEL, MODEL.clone())
    assert found.share == 1 and not found.fails
    assert found.decided == (12 if alike is best_alike else 12 * 28)


@pytest.mark.parametrize("alike", [best_alike, order_alike])
def test_a_constant_file_fails(alike) -> None:
    for constant in (torch.zeros(12, 8), torch.full((12, 8), 0.3)):
        found = alike(MODEL, constant)
        assert found.decided > 0 and found.share == 0 and found.fails


def test_only_margins_above_ten_errors_count() -> None:
    noise = 0.02 * torch.randn(12, 8)
    error = noise.abs().median().item()
    first, second = MODEL.topk(2).values.unbind(1)
    found = best_alike(MODEL, MODEL + noise)
    assert found.decided == int((first - second > 10 * error).sum())
    assert 0 < found.decided < 12
    assert found.share == 1


def test_one_clear_decision_that_flips_fails() -> None:
    file = MODEL.clone()
    best = int(file[3].argmax())
    file[3, best] = -1
    assert best_alike(MODEL, file).share == pytest.approx(11 / 12)
    assert best_alike(MODEL, file).fails


def test_nothing_clear_says_nothing() -> None:
    flat = torch.zeros(12, 8)
    assert best_alike(flat, MODEL) == order_alike(flat, MODEL) == (0, None)
    assert not best_alike(flat, MODEL).fails
    assert best_alike(MODEL[:, :1], MODEL[:, :1]) == (0, None)
