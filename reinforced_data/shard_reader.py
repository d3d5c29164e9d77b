"""One WebDataset shard, sample by sample, with the byte offsets that a store points to.

A shard is an uncompressed tar. Members of one sample are neighbours and share a key (the name up
to the first dot of its last part). Nothing is extracted and no member name is used as a path.
Members that are neither image, caption nor label are skipped unread. WebDataset's own reader is
not used: it hides the byte offsets, and takes a tar cut at a member boundary for a whole one.
"""

import io
import json
import os
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp")
MAX_TEXT_BYTES = 1 << 22

_MEMBER_NAME = re.compile(r"((?:.*/)?[^/.]+)\.([^/]+)", re.DOTALL)


class BrokenShard(ValueError):  # noqa: N818 - it reads better where it is caught
    """A shard that is truncated or no uncompressed tar."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One picture with what the source says about it.

    Attributes:
        key: the member name up to its first dot; an opaque id.
        image: the encoded bytes of the image member.
        extension: of the image member.
        captions: the source's texts, possibly none.
        label: the class, where the source has one.
        offset: where the image member's bytes begin in the shard.
        size: how many bytes it has.
        problem: why the sample cannot be used, or None. Only `scan_shard` yields such samples.
    """

    key: str
    image: bytes
    extension: str
    captions: tuple[str, ...]
    label: str | None
    offset: int
    size: int
    problem: str | None = None


def read_shard(path: str | Path, *, captions_from: str | None = None) -> Iterator[Sample]:
    """Yield the usable samples of a shard.

    Args:
        path: a tar, local or any fsspec URL.
        captions_from: where captions are instead of `txt`, or `json`'s `captions` or `caption`:
            "json:FIELD", or the extension of a text member.

    Raises:
        BrokenShard: a ValueError; not a tar, or a truncated one.
    """
    return (
        sample for sample in scan_shard(path, captions_from=captions_from) if not sample.problem
    )


def scan_shard(path: str | Path, *, captions_from: str | None = None) -> Iterator[Sample]:
    """Yield every sample of a shard, also those with a `problem`; row i of a column is item i.

    Raises:
        BrokenShard: a ValueError; not a tar, or a truncated one (also when cut between members).
    """
    seen: set[str] = set()
    with open_binary(str(path)) as file:
        for key, members in _groups(str(path), file):
            sample = _read_sample(key, members, file, captions_from)
            if key in seen:
                sample = _refuse(key, "duplicate-key")
            seen.add(key)
            yield sample


def open_binary(path: str) -> Any:
    """Open a shard for random access; what is not local is read into memory as a whole."""
    fs, inner = fsspec.core.url_to_fs(path)
    if not fs.exists(inner):
        raise ValueError(f"source shard {path} does not exist")
    if isinstance(fs, LocalFileSystem):
        return open(inner, "rb")
    return io.BytesIO(fs.cat_file(inner))


def _groups(path: str, file: Any) -> Iterator[tuple[str, dict[str, tarfile.TarInfo | None]]]:
    """Group neighbours by key; an extension that comes twice in a group maps to None."""
    current, members = "", {}
    for member in _members(path, file):
        match = _MEMBER_NAME.fullmatch(member.name)
        # A link has no bytes of its own and could point anywhere; devices likewise.
        if match is None or not member.isreg() or member.issparse():
            continue
        key, extension = match[1], match[2].lower()
        if members and key != current:
            yield current, members
            members = {}
        current = key
        members[extension] = None if extension in members else member
    if members:
        yield current, members


def _members(path: str, file: Any) -> Iterator[tarfile.TarInfo]:
    count = 0
    try:
        with tarfile.open(fileobj=file, mode="r:", errors="replace") as tar:
            for member in iter(tar.next, None):
                count += 1
                yield member
                # TarFile keeps every header it has read; a shard can have a million.
                tar.members.clear()
            end = tar.offset
    except (tarfile.TarError, EOFError) as error:
        raise _broken(path, count, str(error)) from error
    # tarfile takes the end of the file, or a broken header, for the end of the archive.
    file.seek(0, os.SEEK_END)
    length = file.tell()
    file.seek(end)
    if file.read(512) != bytes(512):
        what = "no end-of-archive block" if end >= length else "a broken header"
        raise _broken(path, count, f"{what} at byte {end}")


def _broken(path: str, count: int, detail: str) -> BrokenShard:
    return BrokenShard(
        f"source shard {path} is truncated or not an uncompressed tar: {detail} (after {count} "
        "readable members). Fetch or pack this shard again, or leave it out of the source"
    )


def _refuse(key: str, problem: str) -> Sample:
    return Sample(
        key=key, image=b"", extension="", captions=(), label=None, offset=0, size=0, problem=problem
    )


def _read_sample(
    key: str,
    members: dict[str, tarfile.TarInfo | None],
    file: Any,
    captions_from: str | None,
) -> Sample:
    extension = next((name for name in members if name in IMAGE_EXTENSIONS), None)
    if extension is None:
        return _refuse(key, "no-image")
    image = members[extension]
    if any(member is None for member in members.values()) or image is None:
        return _refuse(key, "duplicate-member")
    try:
        texts = _Texts(members, file)
        captions = tuple(texts.captions(captions_from))
        label = texts.label()
    except (ValueError, RecursionError):
        return _refuse(key, "bad-text")
    return Sample(
        key=key,
        image=_read(file, image),
        extension=extension,
        captions=captions,
        label=label,
        offset=image.offset_data,
        size=image.size,
    )


def _read(file: Any, member: tarfile.TarInfo) -> bytes:
    file.seek(member.offset_data)
    return file.read(member.size)


class _Texts:
    """The text members of one sample, each read only when it is asked for."""

    def __init__(self, members: dict[str, tarfile.TarInfo | None], file: Any) -> None:
        self._members = members
        self._file = file

    def _text(self, extension: str) -> str | None:
        member = self._members.get(extension)
        if member is None:
            return None
        if member.size > MAX_TEXT_BYTES:
            raise ValueError(f"{member.name} has {member.size} bytes of text")
        return _read(self._file, member).decode()

    def _json(self) -> dict[str, Any]:
        text = self._text("json")
        fields = {} if text is None else json.loads(text)
        return fields if isinstance(fields, dict) else {}

    def captions(self, captions_from: str | None) -> list[str]:
        if captions_from is not None and captions_from.startswith("json:"):
            found = self._json().get(captions_from.removeprefix("json:"))
        else:
            found = self._text(captions_from or "txt")
            if found is None and captions_from is None:
                fields = self._json()
                found = fields.get("captions") or fields.get("caption")
        texts = found if isinstance(found, list) else [found]
        return [text.strip() for text in texts if isinstance(text, str) and text.strip()]

    def label(self) -> str | None:
        label = self._text("cls")
        if label is None and "json" in self._members:
            label = self._json().get("label")
        return None if label is None else str(label).strip()
