"""A launcher's progress bar: shards, workers and samples a second."""

import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


class ShardsBar:
    """A context manager around the work; draws on stderr."""

    def __init__(self, enabled: bool) -> None:
        """Draw nothing yet."""
        self._console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("reinforce"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("shards, {task.fields[more]}"),
            TimeElapsedColumn(),
            console=self._console,
            disable=not enabled,
        )
        self._task = self._bar.add_task("", total=None, more="loading the teachers")
        self._workers = self._samples = self._died = 0
        self._started = time.perf_counter()

    def __enter__(self) -> "ShardsBar":
        """Begin to draw."""
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End."""
        self._bar.stop()

    def begin(self, shards: int, done: int) -> None:
        """Say how much there is to do."""
        self._started = time.perf_counter()
        self._bar.update(self._task, total=shards, completed=done)

    def shards_are_done(self, shards: int, done: int) -> None:
        """Say how many are done, where nobody reports each."""
        self._bar.update(self._task, total=shards, completed=done)

    def shard_done(self, samples: int, left_out: str | None) -> None:
        """Count a shard that is done with, and say why it is left out where it is."""
        self._samples += samples
        self._bar.advance(self._task)
        if left_out is not None:
            self._console.print(f"skipped: {left_out}", style="yellow", markup=False)
        self.workers(self._workers)

    def workers(self, count: int, died: int = 0) -> None:
        """Say how many there are, and how many more have died."""
        self._workers, self._died = count, self._died + died
        more = f"{count} workers"
        if self._samples:
            rate = self._samples / max(1e-9, time.perf_counter() - self._started)
            more += f", {rate:,.0f} samples/s"
        if self._died:
            more += f", {self._died} died"
        self._bar.update(self._task, more=more)
