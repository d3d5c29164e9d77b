"""`reinforce`: write down what teachers say about a source, once, shard by shard.

The unit is (column, shard). The same command resumes; several processes may run it at once, on one
machine or many: a rank only says where in the list of shards each one begins (ranks.py).
"""

import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from reinforced_data.codecs.names import DEFAULT_CODEC
from reinforced_data.reinforce_report import ReinforceReport, report_on
from reinforced_data.reinforce_work import (
    ReinforceSettings,
    ReinforceWork,
    make_reinforce_work,
)
from reinforced_data.shard_walk import Walked, walk_shards
from reinforced_data.stop_signals import Interrupted, StopSignals
from reinforced_data.store.attempts import Attempts, job_of
from reinforced_data.store.columns import DEFAULT, Column
from reinforced_data.store.layout import Store
from reinforced_data.store.leftovers import remove_leftovers
from reinforced_data.views import ViewPolicy
from teachers import Ensemble, Teacher

__all__ = ["ReinforceReport", "conclude", "reinforce", "stopped"]


def reinforce(
    source: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    teachers: Ensemble | Teacher | Sequence[Teacher],
    view_set: str = DEFAULT,
    num_views: int = 10,
    policy: ViewPolicy = ViewPolicy(),  # noqa: B008 - frozen
    codec: str = DEFAULT_CODEC,
    seed: int = 0,
    captions_from: str | None = None,
    batch_size: int = 256,
    attention: str | None = None,
    retry_quarantined: bool = False,
    progress: bool = True,
) -> ReinforceReport:
    """Write a reinforced dataset, or what is missing of it.

    Args:
        source: shards; see `expand_sources`.
        out: the store's folder; one that is there is completed, and other teachers are added.
        teachers: whose embeddings to write. With () only the index, the captions and the views
            are written, which is what undistilled training on the same pictures needs.
        view_set: the set's name. A store may hold several, each with its own policy, number and
            seed; teachers are asked again for each, texts are not.
        num_views: views per image.
        policy: what views are drawn from.
        codec: how embeddings are stored: float32, float16, bfloat16, int8, int4, pq64, pq96,
            pq128 or pq192. The table in docs/codecs.md says what each costs and loses.
        seed: of the views.
        captions_from: see `read_shard`.
        batch_size: views, or texts, per call of a teacher.
        attention: the name of the teacher whose attention to each view's patches is kept too, for
            students that drop patches (docs/tokens.md); it costs no pass of its own.
        retry_quarantined: try shards again at which three workers died; by default they are left
            out and reported.
        progress: whether to draw a progress bar on stderr.

    Raises:
        ValueError: an argument or the source is not usable, the store was made from another
            source or with other captions, another view set or teacher of the same name, or a
            teacher gives nothing usable.
        OSError: the store cannot be written; what is committed is whole.
        Interrupted: SIGINT, SIGTERM or SIGUSR1 came; the same call goes on. A second signal does
            what it always does, at once.
    """
    started = time.perf_counter()
    settings = ReinforceSettings(
        view_set=view_set,
        num_views=num_views,
        policy=policy,
        codec=codec,
        seed=seed,
        captions_from=captions_from,
        batch_size=batch_size,
        attention=attention,
    )
    work = make_reinforce_work(source, out, teachers, settings)
    already = work.done()
    attempts = Attempts(work.store.storage, job_of(work.plan.columns))
    if retry_quarantined:
        attempts.forget_the_dead(attempts.quarantined())
    walked = _run(work, attempts, already, progress)
    return conclude(
        work.store, work.plan.columns, already=len(already), walked=walked, started=started
    )


def conclude(
    store: Store, columns: Sequence[Column], *, already: int, walked: Walked, started: float
) -> ReinforceReport:
    """Tidy a store up after the work on these columns, and count; raises as `report_on`."""
    Attempts(store.storage, job_of(columns)).forget_the_dead(store.done_in_all(columns))
    remove_leftovers(store)
    seconds = time.perf_counter() - started
    return report_on(store, columns, already=already, walked=walked, seconds=seconds)


def _run(work: ReinforceWork, attempts: Attempts, already: set[int], progress: bool) -> Walked:
    with StopSignals() as signals, _Bar(work.store, already, progress) as bar:

        def stop_if_told() -> None:
            if signals.received:
                done = len(work.done())
                raise stopped(work.store, signals.received, f"{done} of {work.store.num_shards}")

        def do(shard: int, between_batches: Callable[[], None]) -> bool:
            return work.shard(shard, between_batches, bar.sample)

        return walk_shards(
            work.store,
            attempts,
            already,
            do,
            stop_if_told=stop_if_told,
            left_behind=bar.shard_done,
            look=work.done,
        )


def stopped(store: Store, signum: int, how_far: str) -> Interrupted:
    """Word what a stop signal has come to."""
    return Interrupted(
        f"stopped by {signal.Signals(signum).name} with {how_far} shards done in {store.name}; "
        "the same command goes on from there",
        128 + signum,
    )


class _Bar:
    """Progress by source bytes, which are known beforehand; samples are not."""

    def __init__(self, store: Store, done: set[int], enabled: bool) -> None:
        self._store = store
        self._samples = 0
        self._started = time.perf_counter()
        self._before = 0
        self._console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("reinforce"),
            BarColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self._console,
            disable=not enabled,
        )
        total = sum(size for shard, size in enumerate(store.source_bytes) if shard not in done)
        self._task = self._progress.add_task("", total=total, rate="")

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
        self._before += self._store.source_bytes[shard]
        self._progress.update(self._task, completed=self._before)
        if left_out is not None:
            self._console.print(f"skipped: {left_out}", style="yellow", markup=False)
