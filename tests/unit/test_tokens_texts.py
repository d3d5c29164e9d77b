"""Which words of a text stay."""

from collections import Counter

import pytest
import torch

from students.tokens.choosing import sample_seeds
from students.tokens.texts import longest, shortened, token_weights
from students.tokens.words import ADJECTIVE, NOUN, OTHER, VERB, SyntaxTokenizer, word_class
from teachers import WordTokenizer
from teachers.tokenizers import OpenClipTokenizer

WORDS = [f"w{chr(97 + i)}" for i in range(12)]
TOKENIZER = WordTokenizer(WORDS, context_length=14)
TEXTS = [" ".join(WORDS), " ".join(WORDS[:3]), " ".join(WORDS[:6]), ""]
SEEDS = sample_seeds(0, 1, [str(i) for i in range(len(TEXTS))])
RANDOM = ("truncate", "random", "block", "frequency")
WEIGHTS = torch.ones(TOKENIZER.vocab_size, dtype=torch.float64)


@pytest.mark.parametrize("how", RANDOM)
def test_short_texts_stay_and_long_ones_fit(how):
    tokens = TOKENIZER(TEXTS)
    out = shortened(tokens, how, 8, SEEDS, WEIGHTS)
    assert out.shape == (4, 8)
    assert torch.equal(out[1:], tokens[1:, :8])
    assert out[0, 0] == TOKENIZER.start_id and out[0, -1] == TOKENIZER.end_id
    words = out[0, 1:-1]
    assert (words.diff() > 0).all() and (words >= 3).all()  # words of the text, in its order


def test_truncation_keeps_the_first():
    out = shortened(TOKENIZER(TEXTS), "truncate", 6, SEEDS)
    assert TOKENIZER.decode(out[0].tolist()) == " ".join(WORDS[:4])


def test_a_block_is_neighbours_from_anywhere():
    seeds = sample_seeds(0, 0, [str(i) for i in range(500)])
    out = shortened(TOKENIZER(TEXTS[:1]).expand(500, -1), "block", 6, seeds)
    assert (out[:, 1:5].diff(dim=1) == 1).all()
    starts = Counter((out[:, 1] - 3).tolist())
    assert sorted(starts) == list(range(9)) and max(starts.values()) < 2 * min(starts.values())


def test_random_words_are_equally_likely():
    seeds = sample_seeds(0, 0, [str(i) for i in range(3_000)])
    out = shortened(TOKENIZER(TEXTS[:1]).expand(3_000, -1), "random", 8, seeds)
    share = torch.bincount(out[:, 1:7].flatten() - 3, minlength=12) / 3_000
    assert (share - 0.5).abs().max() < 0.04


def test_rare_tokens_stay_more_often():
    """One of two words is kept: by weights 1/sqrt(f) of 1 and 100, the rare one 10 times in 11."""
    corpus = TOKENIZER(["wa"] + ["wb"] * 100)
    weights = token_weights([corpus], TOKENIZER.vocab_size)
    seeds = sample_seeds(0, 0, [str(i) for i in range(4_000)])
    out = shortened(TOKENIZER(["wa wb"]).expand(4_000, -1), "frequency", 3, seeds, weights)
    assert abs((out[:, 1] == 3).double().mean() - 10 / 11) < 0.02


@pytest.mark.parametrize("how", RANDOM)
def test_a_text_is_drawn_alike_in_any_company(how):
    together = shortened(TOKENIZER(TEXTS), how, 5, SEEDS, WEIGHTS)
    alone = [
        shortened(TOKENIZER([text]), how, 5, SEEDS[i : i + 1], WEIGHTS)
        for i, text in enumerate(TEXTS)
    ]
    assert torch.equal(together, torch.cat(alone))


def test_the_longest_text_counts_its_end():
    assert longest([TOKENIZER(TEXTS[1:])]) == 8
    assert longest([TOKENIZER(TEXTS[1:2]), TOKENIZER(TEXTS[:1])]) == 14
    assert longest([TOKENIZER([""])]) == 2


@pytest.mark.parametrize(
    ("word", "kind"),
    [
        *(("dog", NOUN), ("Paris", NOUN), ("red", ADJECTIVE), ("beautiful", ADJECTIVE)),
        *(("dangerous", ADJECTIVE), ("running", VERB), ("sits", VERB), ("painted", VERB)),
        *(
            ("the", OTHER),
            ("of", OTHER),
            ("is", OTHER),
            (",", OTHER),
            ("king", NOUN),
            ("bed", NOUN),
        ),
    ],
)
def test_classes_of_words(word, kind):
    assert word_class(word) == kind


@pytest.mark.parametrize("make", [WordTokenizer.fit, None])
def test_content_words_stay_in_order(make):
    text = "a photo of a big brown dog that is running in the park"
    inner = make([text]) if make else OpenClipTokenizer("ViT-B-32")
    syntax = SyntaxTokenizer(inner, 6)
    assert syntax.shorten(text) == "photo big dog park"
    assert torch.equal(syntax([text])[0, :6], inner(["photo big dog park"])[0, :6])
    assert SyntaxTokenizer(inner, 14).shorten("a big dog") == "a big dog"


def test_a_syntax_row_is_never_longer_than_asked():
    """Also where tokenising a whole text gives more ids than its words one by one."""
    inner = OpenClipTokenizer("ViT-B-32")
    texts = ["supercalifragilisticexpialidocious antidisestablishmentarianism", "", "ÄÖÜ 東京の犬"]
    tokens = SyntaxTokenizer(inner, 5)(texts)
    assert tokens.shape == (3, 5)
    assert (tokens.max(dim=1).values == inner.end_id).all()
