"""A progress bar of rows: how many of how many, per second, and how long it will take."""

import time

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


class PackingBar:
    """Drawn on stderr, and only on a terminal; a context manager."""

    def __init__(self, title: str, total: int | None, done: int, enabled: bool) -> None:
        """Begin at `done` rows of `total`, which may be unknown."""
        self._rows, self._started = 0, time.perf_counter()
        self._progress = Progress(
            TextColumn(title),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            disable=not enabled,
        )
        self._task = self._progress.add_task("", total=total, completed=done, rate="")

    def __enter__(self) -> "PackingBar":
        """Draw."""
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the last state standing."""
        self._progress.stop()

    def row(self) -> None:
        """One more."""
        self._rows += 1
        rate = self._rows / max(time.perf_counter() - self._started, 1e-9)
        self._progress.update(self._task, advance=1, rate=f"{rate:,.0f} pictures/s")
