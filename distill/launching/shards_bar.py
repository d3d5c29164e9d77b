"""What a launcher shows: shards, workers, samples a second; and who died, as a line that stays."""

import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


class ShardsBar:
    """A context manager around the work; draws on stderr."""

    def __init__(self, verb: str, enabled: bool) -> None:
        """Draw nothing yet."""
        self._console = Console(stderr=True)
        self._bar = Progress(
            TextColumn(verb),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("shards, {task.fields[more]}"),
            TimeElapsedColumn(),
            console=self._console,
            disable=not enabled,
        )
        self._task = self._bar.add_task("", total=None, more="loading the models")
        self._workers = self._samples = self._died = 0
        self._started = time.perf_counter()

    def __enter__(self) -> "ShardsBar":
        """Begin to draw."""
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End."""
        self._bar.stop()

    def waiting(self, why: str) -> None:
        """Say what is waited for, before anything is done."""
        self._bar.update(self._task, more=why)

    def begin(self, shards: int, done: int) -> None:
        """Say how much there is to do."""
        self._started = time.perf_counter()
        self._bar.update(self._task, total=shards, completed=done)
        self._say_more()

    def shards_done(self, done: int) -> None:
        """Say how many are done, whoever did them."""
        self._bar.update(self._task, completed=done)

    def one_shard_done(self) -> None:
        """Count one."""
        self._bar.advance(self._task)

    def samples(self, count: int) -> None:
        """Count what a worker has just been through."""
        self._samples += count
        self._say_more()

    def workers(self, count: int) -> None:
        """Say how many there are."""
        if count != self._workers:
            self._workers = count
            self._say_more()

    def died(self, who: str) -> None:
        """Say who died, and count."""
        self._died += 1
        self._say(f"died: {who}")
        self._say_more()

    def left_out(self, why: str) -> None:
        """Say which shard is left out."""
        self._say(f"skipped: {why}")

    def warn(self, said: str) -> None:
        """Say what a worker has to say."""
        self._say(f"warning: {said}")

    def _say(self, text: str) -> None:
        self._console.print(text, style="yellow", markup=False, highlight=False, soft_wrap=True)

    def _say_more(self) -> None:
        more = "1 worker" if self._workers == 1 else f"{self._workers} workers"
        if self._samples:
            rate = self._samples / max(1e-9, time.perf_counter() - self._started)
            more += f", {rate:,.0f} samples/s"
        if self._died:
            more += f", {self._died} died"
        self._bar.update(self._task, more=more)
