"""Texts to token ids in plain Python: CLIP's byte-pair tokenizer, and the word-level one.

The same ids as open_clip's SimpleTokenizer gives. That one cleans texts with ftfy; what ftfy does
to sound text is done here too (entities, ligatures, wide characters, curly quotes, line breaks,
control characters, NFC). Left out: its repair of broken encodings ("schÃ¶n" for "schön").
"""

import html
import html.entities
import re
import string
import unicodedata
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np

# ruff: noqa: RUF001
_LIGATURES = {
    "Ĳ": "IJ", "ĳ": "ij", "ŉ": "ʼn", "Ǳ": "DZ", "ǲ": "Dz", "ǳ": "dz", "Ǆ": "DŽ", "ǅ": "Dž",
    "ǆ": "dž", "Ǉ": "LJ", "ǈ": "Lj", "ǉ": "lj", "Ǌ": "NJ", "ǋ": "Nj", "ǌ": "nj", "ﬀ": "ff",
    "ﬁ": "fi", "ﬂ": "fl", "ﬃ": "ffi", "ﬄ": "ffl", "ﬅ": "ſt", "ﬆ": "st",
}  # fmt: skip
# Full-width letters and half-width katakana; the ideographic space.
_WIDE = {chr(i): unicodedata.normalize("NFKC", chr(i)) for i in (0x3000, *range(0xFF01, 0xFFF0))}
_LIGATURE_TABLE, _WIDE_TABLE = str.maketrans(_LIGATURES), str.maketrans(_WIDE)
_CONTROLS = re.compile("[\x00-\x08\x0b\x0e-\x1f\x7f\u206a-\u206f\ufeff\ufff9-\ufffc]")
_TERMINAL = re.compile("\033\\[(?:\\d|;)*[a-zA-Z]")
_LINE_BREAKS = re.compile("\r\n|[\r\u2028\u2029\x85]")
_SINGLE_QUOTES, _DOUBLE_QUOTES = re.compile("[ʼ\u2018-\u201b]"), re.compile("[\u201c-\u201f]")
_ENTITY = re.compile(r"&#?[0-9A-Za-z]{1,24};")
_SPECIAL = re.compile(r"<start_of_text>|<end_of_text>|'s|'t|'re|'ve|'m|'ll|'d", re.IGNORECASE)
_WORD = re.compile(r"[a-z]+|[0-9]+|[^\sa-z0-9]")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


class WordLevel:
    """Lower-cased words, numbers and signs, each one id; pad 0, start 1, unknown 2, end last."""

    def __init__(self, config: dict[str, Any]) -> None:
        """Take `tokenizer.json` as it is."""
        self.ids = {word: i + 3 for i, word in enumerate(config["words"])}
        self.end, self.length = len(config["words"]) + 3, int(config["context_length"])

    def __call__(self, texts: list[str]) -> np.ndarray:
        """Return int64 ids `(n, context_length)`."""
        words = [[self.ids.get(word, 2) for word in _WORD.findall(text.lower())] for text in texts]
        return rows(words, 1, self.end, self.length)


class BytePairs:
    """CLIP's tokenizer: words into bytes, bytes merged by rank.

    Args:
        config: `tokenizer.json`.
        vocabulary: `vocab.json`, token to id.
        merges: the lines of `merges.txt`, a pair each, best first.
    """

    def __init__(self, config: dict[str, Any], vocabulary: dict[str, int], merges: list[str]):
        """Index the merges by rank."""
        self.config, self.vocabulary = config, vocabulary
        self.ranks = {tuple(merge.split(" ")): rank for rank, merge in enumerate(merges)}
        self.letters = byte_letters()

    def __call__(self, texts: list[str]) -> np.ndarray:
        """Return int64 ids `(n, context_length)`; too long a text is cut, its end token stays."""
        start, end = self.config["start_id"], self.config["end_id"]
        found = [self.encode(text) for text in texts]
        return rows(found, start, end, self.config["context_length"])

    def encode(self, text: str) -> list[int]:
        """Return a text's ids, without start and end."""
        ids = []
        for word in split(clean(text, self.config["clean"])):
            if word in ("<start_of_text>", "<end_of_text>"):
                ids.append(self.vocabulary[word])
                continue
            letters = [self.letters[byte] for byte in word.encode("utf-8")]
            letters[-1] += "</w>"
            ids += [self.vocabulary[part] for part in self.merge(letters)]
        return ids

    def merge(self, parts: list[str]) -> list[str]:
        """Join the neighbours of the best rank until no pair has one."""
        never = len(self.ranks)
        while len(parts) > 1:
            pairs = pairwise(parts)
            left, right = min(pairs, key=lambda pair: self.ranks.get(pair, never))
            if (left, right) not in self.ranks:
                break
            joined, i = [], 0
            while i < len(parts):
                both = i + 1 < len(parts) and (parts[i], parts[i + 1]) == (left, right)
                joined.append(left + right if both else parts[i])
                i += 2 if both else 1
            parts = joined
        return parts


def rows(texts: list[list[int]], start: int, end: int, length: int) -> np.ndarray:
    """Put start and end around ids, cut to `length`, pad with 0."""
    made = np.zeros((len(texts), length), dtype=np.int64)
    for row, ids in zip(made, texts, strict=True):
        row[: len(ids) + 2] = [start, *ids[: length - 2], end]
    return made


def byte_letters() -> list[str]:
    """Return the visible character that stands for each of the 256 bytes in the vocabulary."""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in shown]
    letters = {byte: chr(byte) for byte in shown}
    letters |= {byte: chr(256 + i) for i, byte in enumerate(hidden)}
    return [letters[byte] for byte in range(256)]


def clean(text: str, how: str) -> str:
    """Clean as open_clip's "lower", "whitespace" or "canonicalize" does."""
    text = html.unescape(html.unescape(repaired(text)))
    if how == "canonicalize":
        text = text.replace("_", " ").translate(_PUNCTUATION)
    text = " ".join(text.split())
    return text if how == "whitespace" else text.lower()


def repaired(text: str) -> str:
    """Do what ftfy does to text that is not broken, line by line, until nothing changes."""
    # Halves of UTF-16 pairs join, single ones become U+FFFD.
    text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    # As ftfy has it: markup in a line means that this and later lines may hold wanted entities.
    markup, done = False, []
    for line in re.findall("[^\n]*\n|[^\n]+", text):
        markup = markup or "<" in line
        before = None
        while line != before:
            before = line
            line = line if markup else _ENTITY.sub(_character, line)
            line = line.translate(_LIGATURE_TABLE).translate(_WIDE_TABLE)
            line = _DOUBLE_QUOTES.sub('"', _SINGLE_QUOTES.sub("'", line))
            line = _TERMINAL.sub("", _LINE_BREAKS.sub("\n", line))
            line = unicodedata.normalize("NFC", _CONTROLS.sub("", line))
        done.append(line)
    return "".join(done)


def _character(match: re.Match[str]) -> str:
    entity = match.group()
    name = entity[1:]
    if name.startswith("#"):
        made = html.unescape(entity)
        return entity if ";" in made else made
    if name in html.entities.html5:
        return html.entities.html5[name]
    # "P&EACUTE;REZ": a lower-case name, written in capitals.
    small = html.entities.html5.get(name.lower(), "") if name == name.upper() else ""
    return small.upper() if small and html.unescape(entity) == entity else entity


def split(text: str) -> list[str]:
    r"""Cut into contractions, runs of letters, single digits, and runs of other signs.

    The pattern is 's|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+; Python's own `re` knows no
    \p, so the runs are found by Unicode category.
    """
    words, i = [], 0
    while i < len(text):
        special = _SPECIAL.match(text, i)
        kind = _kind(text[i])
        j = special.end() if special else i + 1
        while not special and kind in ("L", "other") and j < len(text) and _kind(text[j]) == kind:
            j += 1
        if kind != "space":
            words.append(text[i:j])
        i = j
    return words


@lru_cache(maxsize=4096)
def _kind(character: str) -> str:
    # U+0345 belongs to no word: the pattern ignores case, and its capital is a letter.
    if character.isspace() or character == "\u0345":
        return "space"
    category = unicodedata.category(character)[0]
    return category if category in "LN" else "other"
