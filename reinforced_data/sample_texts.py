"""Captions and label of one sample: its text members, each read only when it is asked for."""

import json
import tarfile
from collections.abc import Callable, Mapping
from typing import Any

MAX_TEXT_BYTES = 1 << 22


class Refused(ValueError):  # noqa: N818 - it reads better where it is caught
    """Texts that cannot be used; `reason` is the word that reports count."""

    def __init__(self, reason: str) -> None:
        """Keep the reason."""
        super().__init__(reason)
        self.reason = reason


class SampleTexts:
    """What a sample's `txt`, `json` and `cls` members say.

    Args:
        members: by extension; a string says why that member cannot be used.
        read: a member's bytes.
    """

    def __init__(
        self,
        members: Mapping[str, tarfile.TarInfo | str],
        read: Callable[[tarfile.TarInfo], bytes],
    ) -> None:
        """Read nothing yet."""
        self._members = members
        self._read = read

    def captions(self, captions_from: str | None) -> list[str]:
        """Return the texts of `captions_from`, or of `txt`, `json`'s `captions` or `caption`.

        Raises:
            Refused: too long, not UTF-8, not JSON, twice there, or a link.
        """
        if captions_from is not None and captions_from.startswith("json:"):
            found = self._json().get(captions_from.removeprefix("json:"))
        else:
            found = self._text(captions_from or "txt")
            if found is None and captions_from is None:
                fields = self._json()
                found = fields.get("captions") or fields.get("caption")
        texts = found if isinstance(found, list) else [found]
        return [_clean(text) for text in texts if isinstance(text, str) and text.strip()]

    def label(self) -> str | None:
        """Return the class, from `cls` or `json`'s `label`; raises as `captions` does."""
        label = self._text("cls")
        if label is None and "json" in self._members:
            label = self._json().get("label")
        return None if label is None else _clean(str(label))

    def _text(self, extension: str) -> str | None:
        member = self._members.get(extension)
        if member is None:
            return None
        if isinstance(member, str):
            raise Refused(member)
        if member.size > MAX_TEXT_BYTES:
            raise Refused("text-too-large")
        try:
            return self._read(member).decode()
        except UnicodeDecodeError as error:
            raise Refused("bad-text") from error

    def _json(self) -> dict[str, Any]:
        text = self._text("json")
        try:
            fields = {} if text is None else json.loads(text)
        except (ValueError, RecursionError) as error:
            raise Refused("bad-text") from error
        return fields if isinstance(fields, dict) else {}


def _clean(text: str) -> str:
    """Strip; JSON can spell half a character (a lone surrogate), which no file can hold."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise Refused("bad-text") from error
    return text.strip()
