"""Hush a converter: its progress bars, its log lines, its libraries' deprecations."""

import contextlib
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Let nothing but errors through; what the command itself prints comes before and after."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with (
            open(os.devnull, "w") as nowhere,
            contextlib.redirect_stdout(nowhere),
            contextlib.redirect_stderr(nowhere),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


@contextlib.contextmanager
def quiet_natively() -> Iterator[None]:
    """Hold back what a library writes to the error stream itself, past Python; told if it fails."""
    sys.stderr.flush()
    stream = os.dup(2)
    with tempfile.TemporaryFile() as said:
        os.dup2(said.fileno(), 2)
        try:
            yield
        except BaseException:
            said.seek(0)
            os.write(stream, said.read())
            raise
        finally:
            os.dup2(stream, 2)
            os.close(stream)
