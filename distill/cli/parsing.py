"""Command-line arguments from frozen dataclasses, through tyro; usage errors exit with code 2."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import tyro
from rich.console import Console

Arguments = TypeVar("Arguments")
# What a command line cannot say, as functions: it is set in Python.
_HIDDEN = (tyro.conf.SuppressFixed,)


def parse(
    kind: type[Arguments],
    verb: str,
    arguments: Sequence[str],
    *,
    default: Arguments | None = None,
) -> Arguments:
    """Fill a dataclass from the command line; `--help` prints its docstring and exits."""
    fill = partial(tyro.cli, kind, prog=f"distill {verb}", args=list(arguments), config=_HIDDEN)
    return fill() if default is None else fill(default=default)


def hint_at_gpu(device: str, console: Console) -> None:
    """Say so where a command's models run on the CPU, its default, beside a GPU."""
    import torch

    if device == "cpu" and torch.cuda.is_available():
        console.print("[dim]models run on the CPU; --device cuda takes the GPU that is here[/]")


def read_class_names(path: Path) -> list[str]:
    """Read a --classes file: one name a line."""
    try:
        # Not splitlines: it also splits where no editor shows a new line.
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"--classes {path} is not UTF-8 text: {error}") from error
    names = [line.strip() for line in lines if line.strip()]
    if not names:
        raise ValueError(f"--classes {path} names no class; write one a line")
    return names
