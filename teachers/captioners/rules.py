"""A captioner without a model: the source's texts said another way, by rules.

For tests, for the demo, and as the control that a language model has to beat: does more wording
alone help, without LaCLIP's LLM? Rules change function words, determiners, the order of phrases and
the frame around the text; words with content stay as they are. The picture is not looked at. For
English; a text that no rule fits is only framed.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from typing import Any

from teachers.captioning import CaptionRequest

# Raise it whenever a rule changes: it is in the fingerprint, so old columns stay what they are.
_VERSION = 1
# Equally good words, by meaning; each is looked for and any other of its row put in its place.
_SYNONYMS = (
    ("next to", "beside", "alongside"),
    ("near", "close to"),
    ("under", "underneath"),
    ("on top of", "atop"),
    ("a lot of", "many", "lots of"),
    ("several", "a number of"),
    ("large", "big"),
    ("photo", "photograph"),
    ("picture", "image"),
)
_PREPOSITIONS = "with|without|on|in|at|under|near|beside|behind|above|inside|outside"
_DETERMINERS = "a|an|the|some|this"
_FRAMES = (
    "{}",
    "{}",
    "a photo of {}",
    "a picture of {}",
    "an image of {}",
    "this is {}",
    "here we see {}",
    "the picture shows {}",
    "{}, as seen in the picture",
)
_FRAMED = re.compile(r"^(?:an?|the) (?:photo|photograph|picture|image|drawing) of ", re.IGNORECASE)
_LAST_PHRASE = re.compile(rf"^(.*\S) ((?:{_PREPOSITIONS}) \S.*)$", re.IGNORECASE)
_FIRST_DETERMINER = re.compile(rf"^(?:{_DETERMINERS}) ", re.IGNORECASE)
_TRIES = 8


class RuleCaptioner:
    """Rewrites the texts of a sample; as a function of its seed, `caption` says the same again."""

    name = "rules"
    needs_image = False
    # What the rules add is a handful of words; the licence is that of the source's texts.
    licence: str | None = None

    def __init__(self) -> None:
        """There is nothing to choose."""
        self.provenance: dict[str, Any] = {"rules_version": _VERSION}
        tables = [_VERSION, _SYNONYMS, _PREPOSITIONS, _DETERMINERS, _FRAMES]
        self.fingerprint = hashlib.sha256(json.dumps(tables).encode()).hexdigest()

    def caption(self, requests: Sequence[CaptionRequest], num_captions: int) -> list[list[str]]:
        """Rewrite; a sample without texts gets none."""
        return [_rewrites(request, num_captions) for request in requests]


def _rewrites(request: CaptionRequest, num_captions: int) -> list[str]:
    """Rewrite the texts in turn; what was said before, or is a text already, is tried again."""
    texts = [" ".join(text.split()) for text in request.texts if text.strip()]
    seen = {text.casefold() for text in texts}
    written: list[str] = []
    for number in range(num_captions if texts else 0):
        for attempt in range(_TRIES):
            draw = _Draw(f"{request.seed}/{number}/{attempt}")
            text = rewrite(texts[(request.seed + number) % len(texts)], draw)
            if text.casefold() not in seen:
                seen.add(text.casefold())
                written.append(text)
                break
    return written


class _Draw:
    """A stream of choices from a text; Python's own generator may change between versions."""

    def __init__(self, seed: str) -> None:
        self._seed, self._count = seed, 0

    def below(self, limit: int) -> int:
        """Draw an integer of [0, limit)."""
        self._count += 1
        text = f"{self._seed}/{self._count}".encode()
        digest = hashlib.blake2b(text, digest_size=8).digest()
        return int.from_bytes(digest, "little") % limit


def rewrite(text: str, draw: _Draw) -> str:
    """Say one text another way: synonyms, determiner, then another order or a frame."""
    text = _FRAMED.sub("", text.rstrip(" .!")) or text
    text = _swap_synonyms(text, draw)
    found = _FIRST_DETERMINER.match(text)
    rest = text[found.end() :] if found else text
    start = ("", "the ", found[0].lower() if found else "")[draw.below(3)]
    text = f"{start if rest.isascii() else ''}{rest}"
    reordered = _reorder(text, draw)
    # A frame around a text that begins with "in the park" would be no English.
    if reordered != text and draw.below(3) == 0:
        return reordered
    return _FRAMES[draw.below(len(_FRAMES))].format(text)


def _swap_synonyms(text: str, draw: _Draw) -> str:
    for row in _SYNONYMS:
        # One choice per row, also where it is not used: a rule's choices do not move the others'.
        chosen = row[draw.below(len(row))]
        pattern = "|".join(map(re.escape, row))
        text = re.sub(rf"\b(?:{pattern})\b", chosen, text)
    return text


def _reorder(text: str, draw: _Draw) -> str:
    """Turn "A, B" into "B, A", else "A with B" into "with B, A"."""
    parts = text.split(", ")
    if len(parts) > 1:
        start = 1 + draw.below(len(parts) - 1)
        return ", ".join(parts[start:] + parts[:start])
    found = _LAST_PHRASE.match(text)
    return f"{found[2]}, {found[1]}" if found else text
