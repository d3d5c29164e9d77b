# The letters that look like others are what this is about.
# ruff: noqa: RUF001
"""A bundle's own tokenizer gives the ids that the student was trained with."""

import json
import random
import unicodedata
from pathlib import Path

import ftfy
import numpy as np
import open_clip
import pytest

from students.bundling.shipped.feeding import open_tokenizer
from students.bundling.shipped.words import clean, repaired
from students.bundling.vocabulary import write_vocabulary
from teachers.tokenizers import HuggingFaceTokenizer, OpenClipTokenizer, WordTokenizer

CAPTIONS = [
    "",
    " ",
    "a photo of a cat",
    "  A   PHOTO\tof\r\na “cat’s” tail — 2,024 kg!  ",
    "it's we're I'LL they'd 've x'mas 12345 ½ Ⅷ ²",
    "<start_of_text> a <END_OF_TEXT> <end_of_text>!",
    "fish &amp; chips &lt;3 &eacute;t&EACUTE; &#233; &rsquo;s &notanentity; &amp;amp;",
    "<b>bold</b> &amp; wanted\nsecond &amp; line",
    "ﬁne ﬂowers Ǆungla ＬＯＵＤ　ﾀﾞ Straße İstanbul ΟΔΟΣ",
    "naïve café (cafe\u0301) 東京タワー 서울 🗼👨‍👩‍👧 flag 🏴󠁧󠁢󠁥󠁮󠁧󠁿",
    "zero\u200bwidth\u00ad soft \ufeffbom \x00\x07 \x1b[31mred\x1b[0m \u2028line \x85next",
    "'s'S 'ſ \u0345 !'s ''' ...--- $5.00 50% #tag @name a_b snake_case",
    "word " * 100,
    "x" * 300,
    "lone \ud83d surrogate and \ud83d\ude00 pair",
]


def scrambled(count: int) -> list[str]:
    """Captions of characters from everywhere in Unicode, as sound text has them."""
    chance = random.Random(0)
    kinds = [
        "abcdefghijklmnopqrstuvwxyz", "ABCDEFGHIJKLMNOPQRSTUVWXYZ", "0123456789", " \t\n",
        ".,!?'\"&;<>#-_",
        [chr(i) for i in range(0xA0, 0x2000) if unicodedata.category(chr(i)) not in ("Cn", "Cc")],
        [chr(i) for i in range(0x2000, 0x3100) if unicodedata.category(chr(i)) not in ("Cn", "Cc")],
        [chr(i) for i in range(0x1F300, 0x1F600)],
    ]  # fmt: skip
    weights = [12, 3, 2, 5, 3, 1, 1, 1]
    return [
        "".join(
            chance.choice(chance.choices(kinds, weights)[0]) for _ in range(chance.randrange(60))
        )
        for _ in range(count)
    ]


def unbroken(text: str) -> bool:
    """Whether ftfy sees no broken encoding, whose repair a bundle leaves out."""
    kept = ftfy.TextFixerConfig(
        fix_encoding=False, fix_c1_controls=False, restore_byte_a0=False, explain=False
    )
    return ftfy.fix_text(text, kept) == ftfy.fix_text(text)


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clip")
    assert write_vocabulary(OpenClipTokenizer("ViT-B-32"), folder) == "clip_bpe"
    return folder


def test_byte_pairs_are_open_clips(clip_folder: Path) -> None:
    ours, theirs = open_tokenizer(clip_folder), open_clip.get_tokenizer("ViT-B-32")
    texts = [text for text in CAPTIONS + scrambled(600) if unbroken(text)]
    assert len(texts) > 500
    expected = theirs(texts).numpy()
    for text, found, wanted in zip(texts, ours(texts), expected, strict=True):
        assert found.tolist() == wanted.tolist(), repr(text)


def test_what_a_bundle_leaves_out_is_the_repair_of_broken_encodings(clip_folder: Path) -> None:
    broken = "schÃ¶n"
    assert repaired(broken) == broken and ftfy.fix_text(broken) == "schön"


@pytest.mark.parametrize("how", ["lower", "whitespace", "canonicalize"])
def test_cleaning_is_open_clips(how: str) -> None:
    theirs = open_clip.tokenizer.get_clean_fn(how)
    for text in filter(unbroken, CAPTIONS):
        assert clean(text, how) == theirs(text), repr(text)


def test_other_lengths_and_cleaning_are_told(tmp_path: Path) -> None:
    tokenizer = OpenClipTokenizer("ViT-B-32", context_length=9)
    tokenizer._tokenizer = open_clip.SimpleTokenizer(context_length=9, clean="canonicalize")
    write_vocabulary(tokenizer, tmp_path)
    texts = [
        "A dog-house, with a RED door",
        "it's",
        "one two three four five six seven eight nine ten",
    ]
    np.testing.assert_array_equal(open_tokenizer(tmp_path)(texts), tokenizer(texts).numpy())


def test_words_are_word_tokenizers(tmp_path: Path) -> None:
    tokenizer = WordTokenizer.fit(["a red cat on 2 dogs", "été 東"], context_length=8)
    assert write_vocabulary(tokenizer, tmp_path) == "words"
    texts = CAPTIONS + scrambled(200)
    np.testing.assert_array_equal(open_tokenizer(tmp_path)(texts), tokenizer(texts).numpy())


def test_hugging_faces_travel_by_content(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    inner = Tokenizer(
        models.WordLevel({"[UNK]": 0, "a": 1, "cat": 2, "[PAD]": 3}, unk_token="[UNK]")
    )
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    padding = {"direction": "right", "pad_id": 3, "pad_token": "[PAD]"}
    tokenizer = HuggingFaceTokenizer(
        inner.to_str(), context_length=5, padding=padding, clean="canonicalize"
    )
    assert write_vocabulary(tokenizer, tmp_path) == "huggingface"
    assert "definition" not in json.loads((tmp_path / "tokenizer.json").read_text())
    texts = ["A cat!", "", "cat a cat a cat a cat"]
    np.testing.assert_array_equal(open_tokenizer(tmp_path)(texts), tokenizer(texts).numpy())


def test_a_tokenizer_of_ones_own_is_not_guessed_at(tmp_path: Path) -> None:
    class Own:
        context_length, vocab_size = 4, 256

        def __call__(self, texts):
            raise NotImplementedError

        def config(self):
            return {"type": "mine"}

    assert write_vocabulary(Own(), tmp_path) is None
    with pytest.raises(ValueError, match="of its maker's own"):
        open_tokenizer(tmp_path)
