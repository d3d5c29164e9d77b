"""Where shards lie: any file system that fsspec reads, and nothing that would run a command."""

import contextlib
import re
from collections.abc import Sequence
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from teachers.suggestions import did_you_mean

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):")
# WebDataset runs what follows `pipe:` in a shell; `reference` renders templates out of a file.
_RUNNING = ("pipe", "exec", "cmd", "shell", "sh", "bash", "popen", "reference", "pyscript")
# From so many files of a folder on, one listing costs less than asking for each.
_WORTH_LISTING = 8


def locate(path: str) -> tuple[Any, str]:
    """Return the file system of a path or URL, and the path inside it.

    Raises:
        ValueError: a scheme that would execute something, an unknown one, or one whose package is
            not installed.
    """
    for part in path.split("::"):
        scheme = _SCHEME.match(part)
        if scheme and scheme[1].lower() in _RUNNING:
            raise ValueError(
                f"{path!r} is refused: {scheme[1]}: would run something, and shards are "
                "only ever read. Fetch them first, or give a path, s3://, gs://, https:// or hf://"
            )
    try:
        return fsspec.core.url_to_fs(path)
    except ImportError as error:
        raise ValueError(
            f"source {path!r} needs a package that is not installed: {error}"
        ) from error
    except ValueError as error:
        name = path.partition("://")[0]
        hint = did_you_mean(name, fsspec.available_protocols())
        raise ValueError(f"source {path!r} cannot be opened: {error}{hint}") from error


def file_sizes(paths: Sequence[str]) -> list[int]:
    """Return the bytes of files.

    Raises:
        FileNotFoundError: one does not exist.
    """
    listed = listed_sizes(paths)
    sizes = []
    for fs, inner in map(locate, paths):
        size = listed.get(inner)
        sizes.append(int(fs.size(inner) or 0) if size is None else size)
    return sizes


def listed_sizes(paths: Sequence[str]) -> dict[str, int]:
    """List each remote folder that holds many of these paths, once; return what is there.

    A request a file would keep a worker of a job with 100,000 remote shards waiting for hours.

    Returns:
        Path inside the file system -> bytes, of files alone; nothing of folders that are local,
        missing or not to be listed.
    """
    folders: dict[str, tuple[Any, int]] = {}
    for fs, inner in map(locate, paths):
        folder = inner.rpartition("/")[0]
        if not isinstance(fs, LocalFileSystem):
            folders[folder] = fs, folders.get(folder, (fs, 0))[1] + 1
    found: dict[str, int] = {}
    for folder, (fs, count) in folders.items():
        if count >= _WORTH_LISTING:
            # Not every server lists, and whoever may read a file need not be allowed to: then
            # each file is asked for.
            with contextlib.suppress(Exception):
                entries = fs.ls(folder, detail=True)
                sizes = {e["name"]: e.get("size") for e in entries if e["type"] == "file"}
                found |= {name: int(size) for name, size in sizes.items() if size is not None}
    return found
