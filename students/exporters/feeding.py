"""What turns a picture or a text into a tower's input, written beside the towers."""

import json
import shutil
from pathlib import Path
from typing import Any

import open_clip

from students.student import Student
from teachers.contract import Tokenizer
from teachers.tokenizers import OpenClipTokenizer

PREPROCESSING_FILE = "preprocessing.json"
TOKENIZER_FILE = "tokenizer.json"


def write_feeding(student: Student, folder: Path) -> None:
    """Write `preprocessing.json`, `tokenizer.json` and, for CLIP's own tokenizer, its merges."""
    write_json(folder / PREPROCESSING_FILE, student.preprocess.config())
    vocabulary = _vocabulary(student.tokenizer)
    extra = {} if vocabulary is None else {"vocabulary": vocabulary.name}
    config = {**student.tokenizer.config(), "vocab_size": student.tokenizer.vocab_size, **extra}
    write_json(folder / TOKENIZER_FILE, config)
    if vocabulary is not None:
        shutil.copyfile(vocabulary, folder / vocabulary.name)


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write JSON that people read too."""
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def _vocabulary(tokenizer: Tokenizer) -> Path | None:
    """Return the byte-pair merges of CLIP's own tokenizer; other kinds keep theirs elsewhere."""
    if not isinstance(tokenizer, OpenClipTokenizer):
        return None
    inner = open_clip.get_tokenizer(tokenizer.model)
    if not isinstance(inner, open_clip.SimpleTokenizer):
        return None
    return Path(open_clip.tokenizer.default_bpe())
