"""`caption`: add a set of written captions to a store, shard by shard, with teachers' rows for it.

The unit is (column, shard), as for `reinforce`: the same call resumes, several processes may run it
at once, and nothing that is in the store already is touched. A sample for which nothing is left is
a null row with a reason; training falls back to its original captions there.
"""

import signal
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from reinforced_data.captions.filters import LengthBounds
from reinforced_data.captions.plan import CaptionPlan, make_caption_plan
from reinforced_data.captions.shard_pass import CaptionPass
from reinforced_data.shard_walk import Walked, walk_shards
from reinforced_data.stop_signals import Interrupted, StopSignals
from reinforced_data.store.attempts import Attempts, job_of
from reinforced_data.store.counting import COUNTED_SHARDS, count_commits
from reinforced_data.store.layout import Store, open_store
from reinforced_data.store.leftovers import remove_leftovers
from reinforced_data.store.many_commits import read_commits
from teachers import Captioner, ClipModel, load_captioner
from teachers.captioners.retries import retries_of


@dataclass(frozen=True, kw_only=True)
class CaptionReport:
    """What a store holds of a caption set, and what this call did for it.

    Attributes:
        caption_set: its name.
        columns: what was asked for: the set's column, then one per teacher.
        samples: rows, skipped ones included.
        skipped: null rows by reason; what the index skips is not counted again.
        examples: reason -> where the first few are: key, shard, column.
        bytes: of the data files.
        written: captions written by this call.
        dropped: the captioner's texts that this call did not keep, by reason.
        retries: requests to the captioner's server that this call had to send again, by reason.
        shards: how many source shards are done.
        counted_shards: of how many of them samples, skipped, examples and bytes are told: all;
            in a store of more than 1,000 done shards those that this call wrote.
        shards_already_done: how many of those were, when the call began.
        waiting: source shards that lack what the set is made from (reinforce is not done there).
        failed: source shard -> why it could not be read; running again tries again.
        quarantined: source shard -> which three workers died at it, and what to do.
        seconds: this call.
    """

    caption_set: str
    columns: tuple[str, ...]
    samples: int
    skipped: dict[str, int]
    examples: dict[str, list[str]]
    bytes: int
    written: int
    dropped: dict[str, int]
    retries: dict[str, int]
    shards: int
    counted_shards: int
    shards_already_done: int
    waiting: int
    failed: dict[str, str]
    quarantined: dict[str, str]
    seconds: float


def caption(
    store: str | Path,
    captioner: Captioner | str | None = None,
    *,
    name: str,
    num_captions: int = 5,
    seed: int = 0,
    min_words: int = 2,
    max_words: int | None = None,
    min_score: float | None = None,
    score_teacher: ClipModel | None = None,
    teachers: ClipModel | Sequence[ClipModel] = (),
    batch_size: int = 32,
    retry_quarantined: bool = False,
    progress: bool = True,
) -> CaptionReport:
    """Write a caption set, or what is missing of it, and teachers' rows for it.

    Args:
        store: a reinforced dataset's folder or URL.
        captioner: who writes, or what `load_captioner` makes one of. None embeds the set that is
            there with `teachers` and looks at nothing else.
        name: the set's: lower-case letters, digits, hyphens.
        num_captions: asked for per sample; fewer may be kept. MobileCLIP has 5, and found that
            more than 2 add little.
        seed: of the captions.
        min_words: shorter captions are dropped.
        max_words: longer ones are dropped; None for no bound.
        min_score: captions whose mean cosine with the sample's stored views is lower are dropped.
        score_teacher: whose cosine; it must have written image rows in this store.
        teachers: live teachers of this store whose text rows for the set are written, stored as
            their rows for the original captions are.
        batch_size: samples per call of the captioner, and texts per call of a teacher.
        retry_quarantined: try shards again at which three workers died.
        progress: whether to draw a progress bar on stderr.

    Raises:
        ValueError: an argument is not usable, there is no store, it has another set of this name,
            a teacher is not one of the store's, the source has changed, or the captioner gives
            nothing usable.
        OSError: the store cannot be written, or a captioner's server not reached; what is
            committed is whole.
        Interrupted: SIGINT, SIGTERM or SIGUSR1 came; the same call goes on.
    """
    members = [teachers] if isinstance(teachers, ClipModel) else list(teachers)
    captioner = load_captioner(captioner) if isinstance(captioner, str) else captioner
    _check_arguments(captioner, members, num_captions, batch_size, min_score, score_teacher)
    started = time.perf_counter()
    opened = open_store(store)
    plan = make_caption_plan(
        opened,
        captioner,
        name=name,
        num_captions=num_captions,
        seed=seed,
        bounds=LengthBounds(min_words=min_words, max_words=max_words),
        min_score=min_score,
        score_teacher=score_teacher,
        teachers=members,
    )
    already = opened.done_in_all(plan.columns)
    ready = plan.ready(opened)
    if not ready | already:
        raise ValueError(
            f"{opened.name} has no shard from which the caption set {name!r} could be made: "
            "distill reinforce has not finished one"
        )
    work = _Work(opened, plan, batch_size, progress)
    attempts = Attempts(opened.storage, job_of(plan.columns))
    if retry_quarantined:
        attempts.forget_the_dead(attempts.quarantined())
    walked = work.run(attempts, ready - already)
    attempts.forget_the_dead(opened.done_in_all(plan.columns))
    remove_leftovers(opened)
    if walked.failed and len(walked.failed) == len(ready - already) and not already:
        raise ValueError("; ".join(walked.failed.values()))
    return work.report(already, walked, time.perf_counter() - started)


def _check_arguments(
    captioner: Captioner | None,
    teachers: Sequence[ClipModel],
    num_captions: int,
    batch_size: int,
    min_score: float | None,
    score_teacher: ClipModel | None,
) -> None:
    if num_captions < 1 or batch_size < 1:
        raise ValueError(
            f"num_captions and batch_size must be at least 1, got {num_captions} and {batch_size}"
        )
    if captioner is None and not teachers:
        raise ValueError("without a captioner, give teachers to embed the set with")
    if (min_score is None) != (score_teacher is None):
        raise ValueError("the score filter needs both min_score and a score teacher")


class _Work:
    """The walk over the shards of one call."""

    def __init__(self, store: Store, plan: CaptionPlan, batch_size: int, progress: bool) -> None:
        self._store, self._plan = store, plan
        self._console = Console(stderr=True)
        # How many samples a shard has is a request each; of a large store shards are counted.
        self._of_samples = store.num_shards <= COUNTED_SHARDS
        self._bar = Progress(
            TextColumn("caption"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("samples" if self._of_samples else "shards"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self._console,
            disable=not progress,
        )
        self._task = self._bar.add_task("", total=None)
        self._signals = StopSignals()
        self._retries = retries_of(plan.captioner)
        self._before = sum((one.counts for one in self._retries), Counter[str]())
        for one in self._retries:
            one.tell = self._warn
        self._pass = CaptionPass(
            store=store,
            plan=plan,
            batch_size=batch_size,
            on_samples=self._captioned,
        )

    def run(self, attempts: Attempts, shards: set[int]) -> Walked:
        """Go through these shards; return the ones that had to be left out, and why."""
        rows = self._rows(sorted(shards))
        self._bar.update(self._task, total=sum(rows.values()))
        everything, before = set(range(self._store.num_shards)), 0

        def left_behind(shard: int, left_out: str | None) -> None:
            nonlocal before
            before += rows[shard]
            self._bar.update(self._task, completed=before)
            if left_out is not None:
                self._console.print(f"skipped: {left_out}", style="yellow", markup=False)

        with self._signals, self._bar:
            return walk_shards(
                self._store,
                attempts,
                everything - shards,
                self._pass.run,
                stop_if_told=self._stop_if_told,
                left_behind=left_behind,
                look=lambda: everything - (shards - self._done()),
            )

    def _warn(self, said: str) -> None:
        self._console.print(f"warning: {said}", style="yellow", markup=False)

    def _done(self) -> set[int]:
        return self._store.done_in_all(self._plan.columns)

    def _captioned(self, count: int) -> None:
        if self._of_samples:
            self._bar.update(self._task, advance=count)

    def _rows(self, shards: list[int]) -> dict[int, int]:
        """How far each shard moves the bar."""
        if not self._of_samples:
            return dict.fromkeys(shards, 1)
        commits = read_commits(self._store, [self._plan.index], shards)
        pairs = zip(shards, commits, strict=True)
        return {shard: commit.rows if commit else 0 for shard, (commit,) in pairs}

    def _stop_if_told(self) -> None:
        if not self._signals.received:
            return
        done = len(self._done())
        name = self._plan.captions.identity["set"]
        raise Interrupted(
            f"stopped by {signal.Signals(self._signals.received).name} with {done} of "
            f"{self._store.num_shards} shards of the caption set {name!r} done in "
            f"{self._store.name}; the same command goes on from there",
            128 + self._signals.received,
        )

    def report(self, already: set[int], walked: Walked, seconds: float) -> CaptionReport:
        """Count what is committed."""
        store, plan = self._store, self._plan
        counted = count_commits(store, plan.columns, rows_of=plan.captions, written=walked.written)
        return CaptionReport(
            caption_set=plan.captions.identity["set"],
            columns=tuple(column.name for column in plan.columns),
            **asdict(counted),
            written=self._pass.written,
            dropped={reason: n for reason, n in self._pass.dropped.items() if n},
            retries=dict(sum((one.counts for one in self._retries), Counter[str]()) - self._before),
            shards_already_done=len(already),
            waiting=store.num_shards
            - counted.shards
            - len(walked.failed)
            - len(walked.quarantined),
            failed=walked.failed,
            quarantined=walked.quarantined,
            seconds=seconds,
        )
