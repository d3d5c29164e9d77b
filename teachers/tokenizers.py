"""Tokenizers that save and load: open_clip's by name, Hugging Face's by content, and a word-level
one for small worlds.

The word-level tokenizer is what the glyphs demo and the ladder use: their captions need some two
thousand words, and a table of 49,408 rows would be most of a small student.
"""

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import open_clip
import torch
from jaxtyping import Int64
from open_clip.tokenizer import HFTokenizer, SimpleTokenizer, get_clean_fn
from torch import Tensor

from teachers.contract import Tokenizer

_WORD = re.compile(r"[a-z]+|[0-9]+|[^\sa-z0-9]")


class WordTokenizer:
    """Lower-cased words, numbers and signs; ids are pad 0, start 1, unknown 2, words, end.

    The end token has the largest id, which is where open_clip's text towers pool (`argmax`).
    """

    def __init__(self, words: Sequence[str], context_length: int) -> None:
        """Keep the vocabulary in the order given."""
        if context_length < 3:
            raise ValueError(f"context_length must be at least 3, got {context_length}")
        self.words = tuple(words)
        self.context_length = context_length
        self._ids = {word: i + 3 for i, word in enumerate(self.words)}
        self.start_id = 1
        self.end_id = len(self.words) + 3
        self.vocab_size = self.end_id + 1

    @classmethod
    def fit(
        cls, captions: Sequence[str], *, context_length: int = 16, max_words: int = 8192
    ) -> "WordTokenizer":
        """Take the most frequent words of `captions`; ties in alphabetical order."""
        counts = Counter(word for text in captions for word in _WORD.findall(text.lower()))
        ranked = sorted(counts, key=lambda word: (-counts[word], word))
        return cls(ranked[:max_words], context_length)

    def __call__(self, texts: Sequence[str]) -> Int64[Tensor, "n context"]:
        """Tokenise; longer texts are cut, the end token stays."""
        rows = torch.zeros(len(texts), self.context_length, dtype=torch.int64)
        for row, text in zip(rows, texts, strict=True):
            words = _WORD.findall(text.lower())[: self.context_length - 2]
            ids = [1, *(self._ids.get(word, 2) for word in words), self.end_id]
            row[: len(ids)] = torch.tensor(ids)
        return rows

    def decode(self, ids: Sequence[int]) -> str:
        """Return the words of `ids`; pad, start, unknown and end are none."""
        return " ".join(self.words[i - 3] for i in ids if 3 <= i < self.end_id)

    def config(self) -> dict[str, Any]:
        """Return the vocabulary and the length."""
        return {
            "type": "words",
            "words": list(self.words),
            "context_length": self.context_length,
        }


class OpenClipTokenizer:
    """The tokenizer that open_clip pairs with a model name (or its default byte-pair one)."""

    def __init__(self, model: str, context_length: int | None = None) -> None:
        """Ask open_clip for the tokenizer of `model`."""
        self.model = model
        try:
            self._tokenizer = open_clip.get_tokenizer(model, context_length=context_length)
        except ImportError as error:
            raise ValueError(
                f"the tokenizer of {model} is a Hugging Face one and needs a library that is not "
                f"installed ({error}): pip install 'clip-distill[caption]'"
            ) from error
        self.context_length = int(self._tokenizer.context_length or 0)
        inner = getattr(self._tokenizer, "tokenizer", None)
        self.vocab_size = int(getattr(self._tokenizer, "vocab_size", 0) or len(inner or ()))
        if isinstance(self._tokenizer, SimpleTokenizer):  # Hugging Face's have other names for them
            self.start_id, self.end_id = self._tokenizer.sot_token_id, self._tokenizer.eot_token_id

    def __call__(self, texts: Sequence[str]) -> Int64[Tensor, "n context"]:
        """Tokenise and pad."""
        return self._tokenizer(list(texts)).long()

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of `ids`, special tokens included."""
        return self._tokenizer.decode(ids)

    def config(self) -> dict[str, Any]:
        """Return the name open_clip knows."""
        return {"type": "open_clip", "model": self.model, "context_length": self.context_length}


class HuggingFaceTokenizer:
    """A Hugging Face tokenizer held by content (its tokenizer.json), so that it can be moved.

    Needs the `tokenizers` library. Built with `from_open_clip` from what open_clip loads for a
    local folder, it gives the same ids as that.
    """

    def __init__(
        self, definition: str, *, context_length: int, padding: dict[str, Any], clean: str
    ) -> None:
        """Read a tokenizer.json's text; `padding` as `tokenizers` takes it, `clean` open_clip's."""
        from tokenizers import Tokenizer as Backend

        self.definition = definition
        self.context_length = context_length
        self.padding = padding
        self.clean = clean
        self._tokenizer = Backend.from_str(definition)
        self._tokenizer.enable_truncation(context_length)
        self._tokenizer.enable_padding(length=context_length, **padding)
        self.vocab_size = self._tokenizer.get_vocab_size()

    @classmethod
    def from_open_clip(cls, tokenizer: HFTokenizer, *, clean: str) -> "HuggingFaceTokenizer":
        """Take over an open_clip `HFTokenizer` that was made with the given `clean`."""
        inner = tokenizer.tokenizer
        padding = {
            "direction": inner.padding_side,
            "pad_id": inner.pad_token_id,
            "pad_token": inner.pad_token,
        }
        definition = inner.backend_tokenizer.to_str()
        length = int(tokenizer.context_length or 0)
        return cls(definition, context_length=length, padding=padding, clean=clean)

    def __call__(self, texts: Sequence[str]) -> Int64[Tensor, "n context"]:
        """Clean, tokenise and pad."""
        clean = get_clean_fn(self.clean)
        rows = self._tokenizer.encode_batch([clean(text) for text in texts])
        return torch.tensor([row.ids for row in rows], dtype=torch.int64).reshape(
            len(rows), self.context_length
        )

    def config(self) -> dict[str, Any]:
        """Return the whole definition and how texts are padded."""
        return {
            "type": "huggingface",
            "definition": self.definition,
            "context_length": self.context_length,
            "padding": self.padding,
            "clean": self.clean,
        }


def load_tokenizer(config: dict[str, Any]) -> Tokenizer:
    """Rebuild a tokenizer from what its `config()` returned."""
    kind = config.get("type")
    if kind == "words":
        return WordTokenizer(config["words"], config["context_length"])
    if kind == "open_clip":
        return OpenClipTokenizer(config["model"], config["context_length"])
    if kind == "huggingface":
        return HuggingFaceTokenizer(
            config["definition"],
            context_length=config["context_length"],
            padding=config["padding"],
            clean=config["clean"],
        )
    raise ValueError(
        f"unknown tokenizer type {kind!r}: expected words, open_clip or huggingface. A "
        "tokenizer of your own has to be passed again when the model is loaded (tokenizer=...)"
    )
