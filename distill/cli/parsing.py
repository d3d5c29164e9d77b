"""Command-line arguments from frozen dataclasses, through tyro; usage errors exit with code 2."""

from collections.abc import Sequence
from typing import TypeVar

import tyro

Arguments = TypeVar("Arguments")


def parse(
    kind: type[Arguments],
    verb: str,
    arguments: Sequence[str],
    *,
    default: Arguments | None = None,
) -> Arguments:
    """Fill a dataclass from the command line; `--help` prints its docstring and exits."""
    if default is None:
        return tyro.cli(kind, prog=f"distill {verb}", args=list(arguments))
    return tyro.cli(kind, prog=f"distill {verb}", args=list(arguments), default=default)
