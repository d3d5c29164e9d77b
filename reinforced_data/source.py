"""A source: WebDataset shards of images with captions, read in order and never rewritten.

Here are the list of shards and the public names; one shard is read by shard_reader.py, one image
by decoding.py.
"""

import glob
import re
from collections import Counter
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fsspec.implementations.local import LocalFileSystem

from reinforced_data.decoding import MAX_PIXELS, UnreadableImage, decode_image, image_size
from reinforced_data.locations import listed_sizes, locate
from reinforced_data.shard_reader import (
    IMAGE_EXTENSIONS,
    BrokenShard,
    Sample,
    read_shard,
    scan_shard,
)

__all__ = [
    "IMAGE_EXTENSIONS",
    "MAX_PIXELS",
    "BrokenShard",
    "Sample",
    "Source",
    "UnreadableImage",
    "decode_image",
    "expand_sources",
    "image_size",
    "open_source",
    "read_shard",
    "scan_shard",
]

_BRACES = re.compile(r"\{([^{}]*)\}")


@dataclass
class Source:
    """Shards in order; iterating streams their usable samples and counts the others."""

    shards: list[str]
    captions_from: str | None = None
    skipped: Counter[str] = field(default_factory=Counter)

    def __iter__(self) -> Iterator[Sample]:
        """Yield every usable sample; `skipped` holds the reasons of the pass under way."""
        self.skipped.clear()
        for shard in self.shards:
            for sample in scan_shard(shard, captions_from=self.captions_from):
                if sample.problem is None:
                    yield sample
                else:
                    self.skipped[sample.problem] += 1


def open_source(
    source: str | Path | Sequence[str | Path], *, captions_from: str | None = None
) -> Source:
    """Open shards for reading. `captions_from`: see `read_shard`."""
    return Source(expand_sources(source), captions_from)


def expand_sources(source: str | Path | Sequence[str | Path]) -> list[str]:
    """List shard paths in order.

    Args:
        source: a path, a brace pattern (`cc3m/{0000..0331}.tar`), a glob, a folder (its `*.tar`,
            sorted), an fsspec URL, or a list of those.

    Raises:
        ValueError: when a pattern matches nothing, a file is missing or a shard is named twice.
    """
    if isinstance(source, str | Path):
        source = [source]
    wanted = [path for item in source for path in expand_braces(str(item))]
    listed = listed_sizes(wanted)
    paths = [path for item in wanted for path in _found_at(item, listed)]
    if not paths:
        raise ValueError("no source shards were given")
    twice = [path for path, count in Counter(paths).items() if count > 1]
    if twice:
        raise ValueError(f"source shard {twice[0]} is listed more than once")
    return paths


def _found_at(path: str, listed: Container[str]) -> list[str]:
    """Return the shards that a path, a glob or a folder stands for."""
    fs, inner = locate(path)
    local = isinstance(fs, LocalFileSystem)
    if inner in listed:
        found = [inner]
    elif fs.isdir(inner):
        found = sorted(fs.glob(f"{glob.escape(inner) if local else inner}/*.tar"))
    elif glob.has_magic(inner) and not fs.exists(inner):
        found = sorted(fs.glob(inner))
    else:
        found = [inner] if fs.exists(inner) else []
    if not found:
        raise ValueError(
            f"source {path!r} does not exist or holds no *.tar shards; give tar files, a "
            "folder of them, a glob or a brace pattern such as 'data/{0000..0331}.tar'"
        )
    return found if local else [fs.unstrip_protocol(name) for name in found]


def expand_braces(pattern: str) -> list[str]:
    """Expand `{a,b}` and `{0000..0331}` as a shell does; leading zeros keep their width."""
    match = _BRACES.search(pattern)
    if match is None:
        return [pattern]
    head, tail = pattern[: match.start()], pattern[match.end() :]
    span = re.fullmatch(r"(\d+)\.\.(\d+)", match[1])
    if span:
        first, last = int(span[1]), int(span[2])
        width = max(len(text) if text[0] == "0" else 0 for text in span.groups())
        step = 1 if first <= last else -1
        parts = [f"{number:0{width}d}" for number in range(first, last + step, step)]
    else:
        parts = match[1].split(",")
    return [path for part in parts for path in expand_braces(head + part + tail)]
