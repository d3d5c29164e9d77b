"""The rules: deterministic, of the sample's own words, and the table that finds a captioner."""

import re

import pytest

from teachers import Captioner, CaptionerSettings, CaptionRequest, RuleCaptioner, load_captioner

GOLDEN = ["on a large mat, a cat", "cat on a large mat", "the picture shows the cat on a large mat"]
TEXTS = ("A dog runs on the beach next to a small child.", "two dogs, one black")


def ask(texts=TEXTS, seed=0, count=4):
    request = CaptionRequest(key="k", image=None, texts=texts, seed=seed)
    return RuleCaptioner().caption([request], count)[0]


def test_the_rules_are_a_captioner():
    captioner = load_captioner("rules")
    assert isinstance(captioner, Captioner)
    assert not captioner.needs_image
    assert re.fullmatch("[0-9a-f]{64}", captioner.fingerprint)


def test_a_seed_says_it_all():
    """Known words: whoever changes a rule has to raise the version in the fingerprint."""
    assert ask() == ask()
    assert ask(count=6)[:4] == ask()
    assert len({tuple(ask(seed=seed)) for seed in range(20)}) > 15
    assert ask(("a cat on a large mat",), seed=3, count=3) == GOLDEN


def test_neighbours_do_not_matter():
    requests = [
        CaptionRequest(key=str(n), image=None, texts=TEXTS[n % 2 :], seed=n) for n in range(6)
    ]
    together = RuleCaptioner().caption(requests, 3)
    assert together == [RuleCaptioner().caption([request], 3)[0] for request in requests]


@pytest.mark.parametrize("seed", range(30))
def test_new_texts_of_the_same_words(seed):
    texts = ask(seed=seed)
    assert len(texts) == 4
    assert len({text.casefold() for text in texts} | {t.casefold() for t in TEXTS}) == 6
    for text in texts:
        content = {"dog", "beach", "child"} if "beach" in text else {"two", "dogs", "one", "black"}
        assert content <= set(re.findall(r"\w+", text))


def test_characters_are_not_renamed():
    """Small, above and below are parts of Unicode names."""
    for seed in range(30):
        for text in ask(("latin small letter a with dot below and acute above",), seed):
            for part in ("latin small letter a", "with dot below and acute above"):
                assert part in text


def test_no_texts_no_captions():
    assert ask(()) == []
    assert ask(("", "  ")) == []


def test_other_scripts_are_framed_alone():
    assert all("日本" in text and "the 日本" not in text for text in ask(("日本",)))


def test_an_unknown_captioner_is_named():
    with pytest.raises(ValueError, match="no captioner 'rule'; did you mean 'rules'"):
        load_captioner("rule")


def test_a_setting_without_effect_is_refused():
    with pytest.raises(ValueError, match="'rules' has no use for prompt, top_p"):
        load_captioner("rules", CaptionerSettings(prompt="say", top_p=0.9))
