"""`reinforce`: write down what teachers say about a source, once, shard by shard.

The unit is (column, shard). The same command resumes; several processes may run it at once, on one
machine or many: a rank only says where in the list of shards each one begins (ranks.py).
"""

import signal
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from reinforced_data.attempts import Attempts
from reinforced_data.column_codecs import check_codec
from reinforced_data.columns import DEFAULT
from reinforced_data.layout import Store, create_store
from reinforced_data.leftovers import remove_leftovers
from reinforced_data.plan import Plan, make_plan
from reinforced_data.shard_pass import reinforce_shard
from reinforced_data.shard_walk import Walked, walk_shards
from reinforced_data.source import expand_sources
from reinforced_data.stop_signals import Interrupted, StopSignals
from reinforced_data.views import ViewPolicy
from teachers import Ensemble, Teacher

_EXAMPLES = 5


@dataclass(frozen=True, kw_only=True)
class ReinforceReport:
    """What a store holds of the columns asked for, and what this call did for it.

    Attributes:
        samples: rows, skipped ones included.
        skipped: null rows by reason.
        examples: reason -> where the first few are: key, shard, column.
        shards: how many source shards are done.
        shards_already_done: how many of those were, when the call began.
        failed: source shard -> why it could not be read; running again tries again.
        quarantined: source shard -> which three workers died at it, and what to do.
        bytes: of the data files.
        seconds: this call.
    """

    samples: int
    skipped: dict[str, int]
    examples: dict[str, list[str]]
    shards: int
    shards_already_done: int
    failed: dict[str, str]
    quarantined: dict[str, str]
    bytes: int
    seconds: float


def reinforce(
    source: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    teachers: Ensemble | Teacher | Sequence[Teacher],
    view_set: str = DEFAULT,
    num_views: int = 10,
    policy: ViewPolicy = ViewPolicy(),  # noqa: B008 - frozen
    codec: str = "float16",
    seed: int = 0,
    captions_from: str | None = None,
    batch_size: int = 256,
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
    if num_views < 1 or batch_size < 1:
        raise ValueError(
            f"num_views and batch_size must be at least 1, got {num_views} and {batch_size}"
        )
    check_codec(codec)
    started = time.perf_counter()
    members = [teachers] if isinstance(teachers, Teacher) else list(teachers)
    if members:
        members = list(Ensemble(*members))
    store = create_store(out, expand_sources(source))
    plan = make_plan(
        store,
        members,
        view_set=view_set,
        policy=policy,
        num_views=num_views,
        seed=seed,
        codec=codec,
        captions_from=captions_from,
    )
    already = _done_shards(store, plan)
    attempts = Attempts(store.storage)
    if retry_quarantined:
        attempts.forget_the_dead(attempts.quarantined())
    walked = _run(store, plan, already, batch_size=batch_size, progress=progress)
    attempts.forget_the_dead(_done_shards(store, plan))
    remove_leftovers(store)
    if len(walked.failed) == store.num_shards:
        raise ValueError("; ".join(walked.failed.values()))
    return _report(store, plan, len(already), walked, time.perf_counter() - started)


def _done_shards(store: Store, plan: Plan) -> set[int]:
    return set.intersection(*(store.done(column) for column in plan.columns))


def _run(store: Store, plan: Plan, already: set[int], *, batch_size: int, progress: bool) -> Walked:
    with StopSignals() as signals, _Bar(store, already, progress) as bar:

        def stop_if_told() -> None:
            if signals.received:
                raise _interrupted(store, plan, signals.received)

        def work(shard: int, between_batches: Callable[[], None]) -> bool:
            return reinforce_shard(
                store,
                plan,
                shard,
                batch_size=batch_size,
                on_sample=bar.sample,
                between_batches=between_batches,
            )

        return walk_shards(
            store, already, work, stop_if_told=stop_if_told, left_behind=bar.shard_done
        )


def _interrupted(store: Store, plan: Plan, signum: int) -> Interrupted:
    done = len(_done_shards(store, plan))
    return Interrupted(
        f"stopped by {signal.Signals(signum).name} with {done} of {store.num_shards} shards done "
        f"in {store.name}; the same command goes on from there",
        128 + signum,
    )


def _report(
    store: Store, plan: Plan, already: int, walked: Walked, seconds: float
) -> ReinforceReport:
    samples, size, skipped, examples = 0, 0, Counter[str](), defaultdict[str, list[str]](list)
    done = _done_shards(store, plan)
    for shard in sorted(done):
        for column in plan.columns:
            commit = store.commit(column, shard)
            assert commit is not None
            samples += commit.rows if column is plan.index else 0
            size += commit.num_bytes
            for skip in commit.skipped:
                skipped[skip.reason] += 1
                if len(examples[skip.reason]) < _EXAMPLES:
                    name = store.sources[shard].rsplit("/", 1)[-1]
                    examples[skip.reason].append(f"{skip.key!r} in {name} ({column.name})")
    return ReinforceReport(
        samples=samples,
        skipped=dict(skipped),
        examples=dict(examples),
        shards=len(done),
        shards_already_done=already,
        failed=walked.failed,
        quarantined=walked.quarantined,
        bytes=size,
        seconds=seconds,
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
