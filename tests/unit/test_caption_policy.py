"""Caption policies: their shares, their limits, how often each set is drawn, and the fallback."""

import numpy as np
import pytest

from reinforced_data.captions.policy import CaptionPolicy, pick_captions
from reinforced_data.reading.order import caption_index

KEYS = [f"{number:06d}" for number in range(4000)]
SETS = ("rules", "vlm")


def pick(shares, counts=None, seed=0, epoch=0, keys=KEYS):
    if counts is None:
        counts = np.full((len(shares), len(keys)), 3)
    return pick_captions(shares, counts, seed=seed, epoch=epoch, keys=keys)


def shares(**policy):
    return CaptionPolicy(**policy).shares(SETS)


def test_shares():
    assert shares() == ({"original": 1.0},)
    assert shares(kind="uniform") == ({"original": 1 / 3, "rules": 1 / 3, "vlm": 1 / 3},)
    assert shares(kind="uniform", sets=("vlm",)) == ({"original": 0.5, "vlm": 0.5},)
    assert shares(kind="mix", written=0.5) == ({"original": 0.5, "rules": 0.25, "vlm": 0.25},)
    weights = {"kind": "weighted", "sets": ("vlm", "rules"), "weights": (1.0, 3.0, 0.0)}
    assert shares(**weights) == ({"original": 0.25, "vlm": 0.75},)
    assert shares(kind="sum") == (
        {"original": 1.0},
        {"original": 0.0, "rules": 0.5, "vlm": 0.5},
    )


def test_the_limits_of_the_mix():
    assert shares(kind="mix", written=0.0) == shares(kind="original")
    assert shares(kind="mix", written=1.0, sets=("vlm",)) == ({"original": 0.0, "vlm": 1.0},)


def test_one_set_is_the_choice_that_there_was_before_there_were_sets():
    found = pick([1.0], seed=3, epoch=2)
    assert not found.sets.any()
    assert found.numbers.tolist() == [caption_index(3, 2, key, 3) for key in KEYS]


@pytest.mark.parametrize("wanted", [[0.7, 0.3], [1 / 3, 1 / 3, 1 / 3], [0.05, 0.9, 0.05]])
def test_sets_are_drawn_as_often_as_they_should_be(wanted):
    """Chi-squared over sets, and the texts within a set evenly, whichever the set."""
    found = pick(wanted)
    seen = np.bincount(found.sets, minlength=len(wanted))
    expected = np.array(wanted) * len(KEYS)
    # The 99.9 % quantile for two degrees of freedom; for one it is lower.
    assert ((seen - expected) ** 2 / expected).sum() < 13.8
    for place in range(len(wanted)):
        texts = np.bincount(found.numbers[found.sets == place], minlength=3)
        assert ((texts - texts.mean()) ** 2 / texts.mean()).sum() < 13.8


def test_a_choice_depends_on_seed_epoch_and_key_alone():
    whole = pick([0.5, 0.5], seed=1, epoch=4)
    counts = np.full((2, 100), 3)
    part = pick([0.5, 0.5], counts, seed=1, epoch=4, keys=KEYS[500:600])
    assert whole.sets[500:600].tolist() == part.sets.tolist()
    assert whole.numbers[500:600].tolist() == part.numbers.tolist()
    for other in (pick([0.5, 0.5], seed=2, epoch=4), pick([0.5, 0.5], seed=1, epoch=5)):
        agree = (other.sets == whole.sets).mean()
        assert 0.45 < agree < 0.55


def test_over_epochs_a_sample_sees_every_set():
    seen = {int(pick([0.5, 0.5], epoch=epoch, keys=["k"]).sets[0]) for epoch in range(20)}
    assert seen == {0, 1}


def test_whoever_lacks_the_drawn_set_has_the_original():
    counts = np.full((3, len(KEYS)), 2)
    counts[1, ::2] = 0
    with_gaps, without = pick([0.2, 0.5, 0.3], counts), pick([0.2, 0.5, 0.3], counts * 0 + 2)
    fell = (counts[1] == 0) & (without.sets == 1)
    assert fell.sum() > 500
    assert not with_gaps.sets[fell].any()
    assert with_gaps.sets[~fell].tolist() == without.sets[~fell].tolist()


def test_whoever_lacks_the_original_too_has_the_first_set_there_is():
    counts = np.array([[0, 0, 1], [0, 2, 1], [3, 3, 1]])
    found = pick([1.0, 0.0, 0.0], counts, keys=["a", "b", "c"])
    assert found.sets.tolist() == [2, 1, 0]
    assert all(found.numbers < [3, 2, 1])


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        ({"kind": "mix", "written": 1.1}, r"written must be in \[0, 1\]"),
        ({"kind": "uniform", "sets": ("original",)}, "takes part by itself"),
        ({"kind": "uniform", "sets": ("a", "a")}, "each once"),
        ({"kind": "weighted", "sets": ("a",)}, "go together"),
        ({"kind": "mix", "weights": (1.0, 1.0)}, "go together"),
        ({"kind": "weighted", "sets": ("a",), "weights": (1.0,)}, "one for each"),
        ({"kind": "weighted", "weights": (1.0, 1.0)}, "one for each"),
        ({"kind": "weighted", "sets": ("a",), "weights": (0.0, 0.0)}, "not all 0"),
        ({"kind": "weighted", "sets": ("a",), "weights": (2.0, -1.0)}, ">= 0"),
        ({"kind": "weighted", "sets": ("a",), "weights": (float("nan"), 1.0)}, "finite"),
    ],
)
def test_what_is_no_policy_is_refused(policy, said):
    with pytest.raises(ValueError, match=said):
        CaptionPolicy(**policy)


def test_sets_that_are_not_there():
    with pytest.raises(ValueError, match="no caption set 'vml'; did you mean 'vlm'"):
        shares(kind="uniform", sets=("vml",))
    with pytest.raises(ValueError, match=r"needs a written caption set.*distill caption"):
        CaptionPolicy(kind="mix").shares(())
