"""Which row of the donor's token table belongs to which of the student's, by what the token says.

Two byte-pair vocabularies are compared token by token as they are. A word vocabulary meets a
byte-pair one at its whole words ("cat" and "cat</w>"); start, end, padding and unknown are paired
by their meaning. A token that the donor lacks keeps the student's own start.
"""

from typing import Any

from teachers.contract import Tokenizer
from teachers.tokenizers import HuggingFaceTokenizer, OpenClipTokenizer, WordTokenizer

_MEANINGS = {
    "<start_of_text>": "start",
    "<|startoftext|>": "start",
    "<s>": "start",
    "[CLS]": "start",
    "<end_of_text>": "end",
    "<|endoftext|>": "end",
    "</s>": "end",
    "[SEP]": "end",
    "<pad>": "pad",
    "[PAD]": "pad",
    "<unk>": "unknown",
    "[UNK]": "unknown",
}

# (what it is, its text): ("meaning", "start"), ("word", "cat"), or ("piece", "ca").
Token = tuple[str, str]


def shared_tokens(student: Tokenizer, donor: Tokenizer, rows: int) -> list[int] | None:
    """The donor's row for each of the student's `rows` rows; -1 where it has none.

    Returns None when a vocabulary cannot be read, which only matters between unequal tokenizers.
    """
    if student.config() == donor.config():
        return list(range(rows))
    mine, theirs = vocabulary(student), vocabulary(donor)
    if mine is None or theirs is None:
        return None
    found = [-1] * rows
    for token, row in mine.items():
        if row < rows:
            found[row] = theirs.get(token, -1)
    return found


def vocabulary(tokenizer: Tokenizer) -> dict[Token, int] | None:
    """A tokenizer's tokens and their ids, or None for a kind that is not known."""
    if isinstance(tokenizer, WordTokenizer):
        words = {("word", word): number + 3 for number, word in enumerate(tokenizer.words)}
        last = tokenizer.vocab_size - 1
        special = {"pad": 0, "start": 1, "unknown": 2, "end": last}
        return words | {("meaning", name): row for name, row in special.items()}
    if isinstance(tokenizer, HuggingFaceTokenizer):
        return _tokens(tokenizer._tokenizer.get_vocab())
    if isinstance(tokenizer, OpenClipTokenizer):
        inner: Any = tokenizer._tokenizer
        encoder = getattr(inner, "encoder", None)
        if isinstance(encoder, dict):
            return _tokens(encoder)
        read = getattr(getattr(inner, "tokenizer", None), "get_vocab", None)
        return _tokens(read()) if read is not None else None
    return None


def _tokens(encoder: dict[str, int]) -> dict[Token, int]:
    return {_token(text): row for text, row in encoder.items()}


def _token(text: str) -> Token:
    if text in _MEANINGS:
        return "meaning", _MEANINGS[text]
    if text.endswith("</w>") and len(text) > 4:  # CLIP's byte pairs mark where a word ends
        return "word", text.removesuffix("</w>")
    if text[:1] in ("▁", "Ġ") and len(text) > 1:  # SentencePiece's and GPT-2's where it begins
        return "word", text[1:]
    return "piece", text
