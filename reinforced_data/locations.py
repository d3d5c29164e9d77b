"""Where shards lie: any file system that fsspec reads, and nothing that would run a command."""

import re
from typing import Any

import fsspec

from teachers.suggestions import did_you_mean

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):")
# WebDataset runs what follows `pipe:` in a shell; `reference` renders templates out of a file.
_RUNNING = ("pipe", "exec", "cmd", "shell", "sh", "bash", "popen", "reference", "pyscript")


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
                f"source {path!r} is refused: {scheme[1]}: would run something, and shards are "
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
