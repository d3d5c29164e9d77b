"""Numbers and keys as people read them."""

import math

import pytest

from distill.report import wording


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (999, "999"), (1000, "1.00 k"), (999_499, "999 k"), (999_500, "1.00 M"),
     (63_400_000, "63.4 M"), (1_234_567, "1.23 M"), (2e9, "2.00 G")],
)  # fmt: skip
def test_count_has_three_digits(number, text):
    assert wording.count(number).replace("\u00a0", " ") == text


@pytest.mark.parametrize(
    ("num_bytes", "text"), [(0, "0 B"), (999, "999 B"), (44_120, "44.1 kB"), (5_250_000, "5.25 MB")]
)
def test_size(num_bytes, text):
    assert wording.size(num_bytes).replace("\u00a0", " ") == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (9.94, "9.9 s"), (9.96, "10 s"), (59.6, "1 min 00 s"), (3599.6, "1 h 00 min"),
     (7860, "2 h 11 min")],
)  # fmt: skip
def test_duration(seconds, text):
    assert wording.duration(seconds).replace("\u00a0", " ") == text


def test_scientific_uses_real_superscripts():
    assert wording.scientific(3.24e-6).replace("\u00a0", " ") == "3.2 \u00d7 10\u207b\u2076"
    assert wording.scientific(0) == "0"


@pytest.mark.parametrize("words", [wording.percent, wording.scientific, wording.milliseconds])
def test_what_was_not_measured_is_a_dash(words):
    assert words(None) == wording.NOTHING


def test_percent_of_nan_is_a_dash():
    assert wording.percent(math.nan) == wording.NOTHING


def test_keys_become_words():
    assert wording.metric_name("unseen_pairs/top1") == "top-1"
    assert wording.metric_name("text_to_image_r10") == "text \u2192 image R@10"
    assert wording.metric_name("loss") == "loss"
    assert wording.split_name("unseen_pairs/top1") == "unseen pairs"
    assert wording.split_name("top1") == ""


def test_printable_keeps_words_and_units_but_no_control():
    text = wording.printable("a\u202e\x1b[31m\ud800\tb\u00a0% \u05d0")
    assert text == "a\ufffd\ufffd[31m\ufffd b\u00a0% \u05d0"
