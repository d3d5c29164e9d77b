"""`work_here`: all of a store's shards in this process, with a progress bar."""

import time
from collections.abc import Sequence

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from reinforced_data.shard_walk import Walked, walk_shards
from reinforced_data.shard_work import ShardWork, done_in, stopped, waiting_in
from reinforced_data.stop_signals import StopSignals
from reinforced_data.store.attempts import Attempts, job_of


def work_here(
    work: ShardWork, verb: str, *, retry_quarantined: bool, progress: bool
) -> tuple[int, Walked]:
    """Do what is missing; return how many shards were done before, and what came of the others.

    Args:
        work: what to do.
        verb: what the bar is called.
        retry_quarantined: try shards again at which three workers died.
        progress: whether to draw the bar on stderr.

    Raises:
        Interrupted: told to stop.
        Whatever the work raises; what is committed is whole.
    """
    already = done_in(work)
    waiting = waiting_in(work.store, work.needs)
    attempts = Attempts(work.store.storage, job_of(work.columns))
    if retry_quarantined:
        attempts.forget_the_dead(attempts.quarantined())
    sizes = [
        0 if shard in already or shard in waiting else size
        for shard, size in enumerate(work.store.source_bytes)
    ]
    with StopSignals() as signals, _Bar(verb, sizes, progress) as bar:
        work.warn_by(bar.warn)

        def stop_if_told() -> None:
            if signals.received:
                raise stopped(work.store, work.columns, signals.received)

        walked = walk_shards(
            work,
            attempts,
            already,
            waiting,
            on_sample=bar.sample,
            stop_if_told=stop_if_told,
            left_behind=bar.shard_done,
        )
    walked.counts.update(work.take_counts())
    return len(already), walked


class _Bar:
    """Progress by source bytes, which are known beforehand; samples are not."""

    def __init__(self, verb: str, sizes: Sequence[int], enabled: bool) -> None:
        self._sizes = sizes
        self._samples = 0
        self._started = time.perf_counter()
        self._before = 0
        self._console = Console(stderr=True)
        self._progress = Progress(
            TextColumn(verb),
            BarColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self._console,
            disable=not enabled,
        )
        self._task = self._progress.add_task("", total=sum(sizes), rate="")

    def __enter__(self) -> "_Bar":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def sample(self, size: int) -> None:
        self._samples += 1
        rate = self._samples / (time.perf_counter() - self._started)
        # What is not image (headers, texts) is made up for when the shard is done.
        self._progress.update(self._task, advance=size, rate=f"{rate:,.0f} samples/s")

    def shard_done(self, shard: int, left_out: str | None) -> None:
        self._before += self._sizes[shard]
        self._progress.update(self._task, completed=self._before)
        if left_out is not None:
            self._say(f"skipped: {left_out}")

    def warn(self, said: str) -> None:
        self._say(f"warning: {said}")

    def _say(self, text: str) -> None:
        self._console.print(text, style="yellow", markup=False, highlight=False)
