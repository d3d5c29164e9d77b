"""One WebDataset shard, sample by sample, with the byte offsets that a store points to.

A shard is an uncompressed tar. Members of one sample are neighbours and share a key (the name up
to the first dot of its last part). Nothing is extracted, executed or unpickled, no link is followed
and no member name is used as a path. Members that are neither image, caption nor label are skipped
unread. Of a shard that ends too early, or is broken further on, the whole samples are kept and the
cut is one more sample with a `problem`, so that a reader of counts sees it. WebDataset's own reader
is not used: it hides the byte offsets, and takes a tar cut at a member boundary for a whole one.
"""

import io
import os
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fsspec.implementations.local import LocalFileSystem

from reinforced_data.locations import locate
from reinforced_data.sample_texts import Refused, SampleTexts

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp")
MAX_IMAGE_BYTES = 1 << 28
CUTS = ("truncated-shard", "broken-shard")
"""The problems of the last row of a shard of which only the beginning could be read."""

_MEMBER_NAME = re.compile(r"((?:.*/)?[^/.]+)\.([^/]+)", re.DOTALL)
_BLOCK = 512

Members = dict[str, tarfile.TarInfo | str]
"""A sample's by extension: each a member, or why it cannot be used."""


class BrokenShard(ValueError):  # noqa: N818 - it reads better where it is caught
    """A shard without one whole sample: cut too early, or no uncompressed tar."""


class _Cut(Exception):  # noqa: N818 - as above
    """Where a shard stops being readable, and how."""

    def __init__(self, reason: str, offset: int, detail: str) -> None:
        super().__init__(detail)
        self.reason, self.offset = reason, offset


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
        BrokenShard: a ValueError; not a tar, or cut before its first sample ends.
    """
    return (
        sample for sample in scan_shard(path, captions_from=captions_from) if not sample.problem
    )


def scan_shard(
    path: str | Path, *, captions_from: str | None = None, with_images: bool = True
) -> Iterator[Sample]:
    """Yield every sample of a shard, also those with a `problem`; row i of a column is item i.

    A shard that is cut, also between two members, ends with a sample whose problem is in `CUTS`:
    the one that the cut goes through, or one with the key `byte N` behind the last whole one.
    Without images, `image` is empty, and only headers and texts are read.

    Raises:
        BrokenShard: a ValueError; not a tar, or cut before its first sample ends.
    """
    seen: set[str] = set()
    with open_binary(str(path)) as file:
        for key, members, problem in member_groups(str(path), file):
            if problem is None and key in seen:
                # A part of an earlier sample, or another sample of the same name?
                problem = "duplicate-key" if _image_of(members) else "interleaved-key"
            seen.add(key)
            if problem is not None:
                yield _refuse(key, problem)
            else:
                yield _read_sample(key, members, file, captions_from, with_images)


def sample_starts(path: str | Path) -> Iterator[int]:
    """Yield where each sample's first header begins, in bytes; contents are not read.

    A shard that is cut ends where it is cut, without a word.
    """
    key = None
    with open_binary(str(path)) as file:
        try:
            for member in _members(file):
                match = _MEMBER_NAME.fullmatch(member.name)
                if match and not member.isdir() and match[1] != key:
                    key = match[1]
                    yield member.offset
        except _Cut:
            return


def open_binary(path: str) -> Any:
    """Open a shard for random access; what is not local is read into memory as a whole."""
    fs, inner = locate(path)
    if not fs.exists(inner):
        raise ValueError(f"source shard {path} does not exist")
    if isinstance(fs, LocalFileSystem):
        return open(inner, "rb")
    return io.BytesIO(fs.cat_file(inner))


def member_groups(
    path: str, file: Any, start: int = 0
) -> Iterator[tuple[str, Members, str | None]]:
    """Group neighbours by key; the third item says why a group cannot be used.

    Args:
        path: for messages.
        file: the opened shard.
        start: where to begin: 0, or the header of a sample's first member.

    Raises:
        BrokenShard: not a tar, or cut before its first sample ends.
    """
    current, members, before = "", Members(), frozenset[str]()
    try:
        for key, extension, member in _named_members(file, start):
            if members and key != current:
                yield current, members, None
                before, members = frozenset(members), {}
            current = key
            members[extension] = "duplicate-member" if extension in members else member
        if members:
            yield current, members, None
    except _Cut as cut:
        # Nothing says whether the last sample had more members; the one before it had these.
        whole = bool(before) and before <= members.keys()
        if not before:
            raise BrokenShard(
                f"source shard {path} is truncated or not an uncompressed tar: {cut}, before its "
                "first sample ends. Fetch or pack this shard again, or leave it out of the source"
            ) from cut
        if whole or not members:
            yield from [(current, members, None)] if members else []
            current = f"byte {cut.offset}"
        yield current, {}, cut.reason


def _named_members(file: Any, start: int) -> Iterator[tuple[str, str, tarfile.TarInfo | str]]:
    """Yield key, extension and member; a link or device, which has no bytes, as its problem."""
    for member in _members(file, start):
        match = _MEMBER_NAME.fullmatch(member.name)
        if match is None or member.isdir():
            continue
        readable = member.isreg() and not member.issparse()
        # A link could point anywhere.
        yield match[1], match[2].lower(), member if readable else "link-or-device"


def _members(file: Any, start: int = 0) -> Iterator[tarfile.TarInfo]:
    """Yield members that lie wholly within the file.

    Raises:
        _Cut: the file ends, or stops being a tar, before the end of the archive.
    """
    length = file.seek(0, os.SEEK_END)
    file.seek(start)
    offset = start
    try:
        with tarfile.open(fileobj=file, mode="r:", errors="replace") as tar:
            for member in iter(tar.next, None):
                offset = member.offset
                if member.size < 0:
                    raise tarfile.ReadError("a negative size")
                if member.isreg() and member.offset_data + member.size > length:
                    raise tarfile.ReadError("unexpected end of data")
                yield member
                offset = tar.offset
                # TarFile keeps every header it has read; a shard can have a million.
                tar.members.clear()
            offset = tar.offset
    except (tarfile.TarError, EOFError, ValueError) as error:
        reason = CUTS[0] if length < _BLOCK or "end of data" in str(error) else CUTS[1]
        raise _Cut(reason, offset, f"{error} at byte {offset}") from error
    # tarfile takes the end of the file, or a broken header, for the end of the archive.
    file.seek(offset)
    if file.read(_BLOCK) != bytes(_BLOCK):
        if length - offset < _BLOCK:
            raise _Cut(CUTS[0], offset, f"no end-of-archive block at byte {offset}")
        raise _Cut(CUTS[1], offset, f"a broken header at byte {offset}")


def _refuse(key: str, problem: str) -> Sample:
    return Sample(
        key=key, image=b"", extension="", captions=(), label=None, offset=0, size=0, problem=problem
    )


def _image_of(members: Members) -> str | None:
    """The extension of a group's image."""
    return next((name for name in members if name in IMAGE_EXTENSIONS), None)


def _read_sample(
    key: str, members: Members, file: Any, captions_from: str | None, with_images: bool
) -> Sample:
    extension = _image_of(members)
    if extension is None:
        return _refuse(key, "no-image")
    image = members[extension]
    if isinstance(image, str):
        return _refuse(key, image)
    if image.size > MAX_IMAGE_BYTES:
        return _refuse(key, "image-too-large")
    try:
        texts = SampleTexts(members, lambda member: _read(file, member))
        captions = tuple(texts.captions(captions_from))
        label = texts.label()
    except Refused as error:
        return _refuse(key, error.reason)
    return Sample(
        key=key,
        image=_read(file, image) if with_images else b"",
        extension=extension,
        captions=captions,
        label=label,
        offset=image.offset_data,
        size=image.size,
    )


def _read(file: Any, member: tarfile.TarInfo) -> bytes:
    file.seek(member.offset_data)
    return file.read(member.size)
