"""Token drawing against the distribution it says, and numbers that are each text's own."""

import numpy as np
import pytest
import torch

from teachers.captioners import sampling as sampling_module
from teachers.captioners.sampling import Sampling, draw_tokens, uniform_numbers


def nucleus(logits: torch.Tensor, temperature: float, top_p: float) -> torch.Tensor:
    """By the definition, in float64: likeliest tokens until top_p is reached, renormalised."""
    shares = (logits.double() / temperature).softmax(-1)
    kept, mass = torch.zeros_like(shares), 0.0
    for token in shares.argsort(descending=True):
        kept[token] = shares[token]
        mass += float(shares[token])
        if mass >= top_p:
            break
    return kept / kept.sum()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7])
@pytest.mark.parametrize("top_p", [0.1, 0.6, 0.9, 1.0])
@pytest.mark.parametrize("likeliest", [3, 512])  # with 3 the whole vocabulary has to be sorted
def test_equally_spaced_numbers_give_each_token_its_share(
    monkeypatch, temperature, top_p, likeliest
):
    monkeypatch.setattr(sampling_module, "_LIKELIEST", likeliest)
    logits = torch.randn(13, generator=torch.Generator().manual_seed(1))
    count = 20_000
    numbers = (np.arange(count) + 0.5) / count
    settings = Sampling(temperature=temperature, top_p=top_p)
    drawn = draw_tokens(logits.expand(count, -1), numbers, settings)
    shares = torch.bincount(drawn, minlength=13) / count
    # A border between two tokens may fall on either side of one number.
    assert (shares - nucleus(logits, temperature, top_p)).abs().max() < 1.5 / count


def test_the_ends_of_the_interval_stay_within_the_nucleus():
    logits = torch.tensor([[0.0, 3.0, -2.0, 1.0]])
    for number, token in ((0.0, 1), (np.nextafter(1.0, 0.0), 2)):
        assert draw_tokens(logits, np.array([number]), Sampling(top_p=1.0)).tolist() == [token]
    number = np.array([np.nextafter(1.0, 0.0)])
    assert draw_tokens(logits, number, Sampling(top_p=0.5)).tolist() == [1]


def test_temperature_zero_takes_the_likeliest():
    logits = torch.tensor([[0.0, 3.0, -2.0], [5.0, 3.0, -2.0]])
    greedy = Sampling(temperature=0.0)
    assert draw_tokens(logits, np.array([0.99, 0.99]), greedy).tolist() == [1, 0]
    assert (greedy.distinct(5), Sampling().distinct(5)) == (1, 5)


def test_what_must_not_come_does_not():
    logits = torch.tensor([[float("-inf"), 1.0, float("-inf")]]).expand(50, -1)
    drawn = draw_tokens(logits, np.linspace(0, 0.999, 50), Sampling(top_p=1.0))
    assert set(drawn.tolist()) == {1}


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_broken_logits_are_refused(bad):
    logits = torch.tensor([[0.0, 1.0], [bad, 1.0]])
    with pytest.raises(ValueError, match=r"NaN or infinite.*fp32"):
        draw_tokens(logits, np.array([0.5, 0.5]), Sampling())


def test_numbers_are_of_seed_and_text_and_go_on_where_more_are_asked_for():
    numbers = uniform_numbers(2**63 - 1, 0, 40)
    assert (numbers[:10] == uniform_numbers(2**63 - 1, 0, 10)).all()
    assert not np.isclose(numbers, uniform_numbers(2**63 - 1, 1, 40)).any()
    assert not np.isclose(numbers, uniform_numbers(2**63 - 2, 0, 40)).any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -1.0}, "temperature must be 0 or more"),
        ({"temperature": float("nan")}, "temperature must be 0 or more"),
        ({"top_p": 0.0}, "top_p must be above 0"),
        ({"top_p": 1.5}, "top_p must be above 0"),
        ({"max_tokens": 0}, "max_tokens must be at least 1"),
        ({"max_tokens": 3, "min_tokens": 4}, "min_tokens 4"),
    ],
)
def test_settings_without_a_meaning_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Sampling(**options)
