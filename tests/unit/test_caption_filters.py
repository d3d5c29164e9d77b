"""Which captions are kept, why the others are not, and where a sample's seed comes from."""

from collections import Counter

import pytest

from reinforced_data.captions.filters import LengthBounds, choose_texts, folded
from reinforced_data.captions.plan import caption_seed

ANY = LengthBounds(min_words=1)


def choose(texts, originals=(), bounds=ANY):
    dropped = Counter()
    return choose_texts(texts, originals, bounds, dropped), dict(dropped)


def test_what_is_good_is_kept_in_order():
    assert choose(["b c", "a"]) == (["b c", "a"], {})


def test_white_space_is_tidied():
    assert choose([" a\n  dog\t"]) == (["a dog"], {})


def test_neither_case_nor_space_makes_a_new_caption():
    assert choose(["A Dog", "a  dog", "adog"]) == (["A Dog"], {"duplicate": 2})
    assert folded("Straße 1") == folded("STRASSE1")


def test_the_originals_are_not_said_again():
    assert choose(["a dog", "a cat"], ["A DOG "]) == (["a cat"], {"duplicate": 1})


def test_a_dropped_text_does_not_forbid_a_later_one():
    """What is out of bounds was not kept, so it is counted as that again, not as a duplicate."""
    kept, dropped = choose(["dog", "Dog"], (), LengthBounds(min_words=2))
    assert kept == [] and dropped == {"too-short": 2}


def test_bounds_are_inclusive():
    bounds = LengthBounds(min_words=2, max_words=3)
    texts = ["a", "a b", "a b c", "a b c d"]
    assert choose(texts, (), bounds) == (["a b", "a b c"], {"too-short": 1, "too-long": 1})


@pytest.mark.parametrize(("low", "high"), [(0, None), (3, 2), (1, 0)])
def test_bounds_that_nothing_is_within_are_refused(low, high):
    with pytest.raises(ValueError, match="1 <= min_words <= max_words"):
        LengthBounds(min_words=low, max_words=high)


def test_empty_and_unwritable_texts():
    assert choose(["", " \n", "half \ud83d"]) == ([], {"empty": 2, "bad-text": 1})


def test_seeds_differ_by_key_and_run_and_fit_any_generator():
    seeds = {caption_seed(run, f"{key:04d}") for run in range(3) for key in range(200)}
    assert len(seeds) == 600
    assert all(0 <= seed < 2**63 for seed in seeds)
    # Known: stores on disk were written with it.
    assert caption_seed(0, "0000") == 7489061968168112079
