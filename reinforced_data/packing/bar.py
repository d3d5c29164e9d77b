"""A progress bar: how many of how many, how many per second, and how long it will take."""

import time

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


class PackingBar:
    """Drawn on stderr, and only on a terminal; a context manager."""

    def __init__(
        self,
        title: str,
        total: int | None,
        done: int,
        enabled: bool,
        *,
        unit: str = "pictures",
        counted: bool = True,
    ) -> None:
        """Begin at `done` of `total`, which may be unknown.

        Args:
            title: what is being done.
            total: how much there is: rows, or bytes where `counted` is False.
            done: how much of it was done before.
            enabled: whether to draw at all.
            unit: what is counted per second.
            counted: whether `total` is a number of rows, and worth showing.
        """
        self._rows, self._started, self._unit = 0, time.perf_counter(), unit
        self._progress = Progress(
            TextColumn(title),
            BarColumn(),
            MofNCompleteColumn() if counted else TaskProgressColumn(),
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

    def row(self, advance: int = 1) -> None:
        """One more row, which is so much of the total."""
        self._rows += 1
        rate = self._rows / max(time.perf_counter() - self._started, 1e-9)
        self._progress.update(self._task, advance=advance, rate=f"{rate:,.0f} {self._unit}/s")
