"""A tokenizer as plain files that any language can read: ids, merges, and the steps in words.

`tokenizer.json` names the algorithm: "clip_bpe" (with `vocab.json` and `merges.txt`), "words" (its
vocabulary is inside), "huggingface" (with `huggingface.json`, which the `tokenizers` library
reads), or None for a tokenizer of the user's own, which no file describes.
"""

import json
from pathlib import Path
from typing import Any

from open_clip import tokenizer as open_clip_tokenizers
from open_clip.tokenizer import HFTokenizer, SimpleTokenizer

from teachers.contract import Tokenizer
from teachers.tokenizers import HuggingFaceTokenizer, OpenClipTokenizer, WordTokenizer

TOKENIZER_FILE = "tokenizer.json"
_CLEANERS = {
    getattr(open_clip_tokenizers, f"_clean_{name}"): name
    for name in ("lower", "whitespace", "canonicalize")
}


def write_vocabulary(tokenizer: Tokenizer, folder: Path) -> str | None:
    """Write the tokenizer's files; returns the algorithm's name, or None."""
    described = _described(tokenizer)
    algorithm = described.pop("algorithm")
    config = tokenizer.config()
    if algorithm == "clip_bpe":
        inner = described.pop("inner")
        _write(folder / described["vocabulary"], inner.encoder)
        merges = [" ".join(pair) for pair in inner.bpe_ranks]
        (folder / described["merges"]).write_text("\n".join(merges) + "\n", encoding="utf-8")
    if algorithm == "huggingface":
        config = {name: value for name, value in config.items() if name != "definition"}
        definition = described.pop("definition")
        (folder / described["vocabulary"]).write_text(definition, encoding="utf-8")
    sizes = {"context_length": tokenizer.context_length, "vocab_size": tokenizer.vocab_size}
    _write(folder / TOKENIZER_FILE, {"algorithm": algorithm, **config, **sizes, **described})
    return algorithm


def _described(tokenizer: Tokenizer) -> dict[str, Any]:
    """Return what a reader needs beside `tokenizer.config()`."""
    if isinstance(tokenizer, WordTokenizer):
        ids = {"pad_id": 0, "start_id": 1, "unknown_id": 2, "end_id": tokenizer.end_id}
        return {"algorithm": "words", **ids}
    if isinstance(tokenizer, HuggingFaceTokenizer):
        return _hugging_face(tokenizer)
    inner = getattr(tokenizer, "_tokenizer", None)
    if not isinstance(tokenizer, OpenClipTokenizer) or inner is None:
        return {"algorithm": None}
    clean = _CLEANERS.get(inner.clean_fn)
    if isinstance(inner, SimpleTokenizer) and inner.reduction_fn is None and clean:
        ids = {"pad_id": 0, "start_id": inner.sot_token_id, "end_id": inner.eot_token_id}
        files = {"vocabulary": "vocab.json", "merges": "merges.txt"}
        return {"algorithm": "clip_bpe", "clean": clean, **ids, **files, "inner": inner}
    if not isinstance(inner, HFTokenizer) or inner.tokenizer_mode or inner.strip_sep_token:
        return {"algorithm": None}
    if clean and hasattr(inner.tokenizer, "backend_tokenizer"):
        return _hugging_face(HuggingFaceTokenizer.from_open_clip(inner, clean=clean))
    return {"algorithm": None}


def _hugging_face(tokenizer: HuggingFaceTokenizer) -> dict[str, Any]:
    return {
        "algorithm": "huggingface",
        "clean": tokenizer.clean,
        "padding": tokenizer.padding,
        "vocabulary": "huggingface.json",
        "definition": tokenizer.definition,
    }


def _write(path: Path, value: dict[str, Any]) -> None:
    text = json.dumps(value, ensure_ascii=False, indent=None if len(value) > 100 else 2)
    path.write_text(text + "\n", encoding="utf-8")
