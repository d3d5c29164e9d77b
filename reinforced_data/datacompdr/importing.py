"""`import_datacompdr`: Apple's published DataCompDR (arXiv:2311.17049) as a reinforced dataset.

What was published holds neither pictures nor captions; those come from the user's own shards,
joined by uid. The unit is (column, shard), as for `reinforce`: the same call resumes, and columns
of live teachers, further view sets and caption sets can be added later.
"""

import signal
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import get_args

from reinforced_data.codecs.codec import CODECS
from reinforced_data.codecs.names import DEFAULT_CODEC
from reinforced_data.datacompdr.index import PublishedIndex
from reinforced_data.datacompdr.plan import (
    DATACOMPDR,
    CropsOf,
    ImportPlan,
    PublishedTeacher,
    make_import_plan,
)
from reinforced_data.datacompdr.shard_pass import ImportPass
from reinforced_data.packing.bar import PackingBar
from reinforced_data.shard_walk import ShardWalk
from reinforced_data.source import BrokenShard, expand_sources
from reinforced_data.stop_signals import Interrupted, StopSignals
from reinforced_data.store.counting import count_commits
from reinforced_data.store.layout import Store, create_store
from reinforced_data.store.leftovers import remove_leftovers
from teachers import ClipModel
from teachers.suggestions import unknown_name


@dataclass(frozen=True, kw_only=True)
class ImportReport:
    """What a store holds of an import, and what this call did for it.

    Attributes:
        samples: rows, those without anything published included.
        skipped: samples that lack something, by reason.
        examples: reason -> where the first few are: key, shard, column.
        bytes: of the data files.
        published: how many samples the published shards have.
        same_bytes: pictures that this call found to be byte for byte the published ones.
        shards: how many source shards are done.
        counted_shards: of how many of them samples, skipped, examples and bytes are told: all;
            in a store of more than 1,000 done shards those that this call wrote.
        shards_already_done: how many of those were, when the call began.
        failed: shard, of pictures or published, -> why it could not be read.
        seconds: this call.
    """

    samples: int
    skipped: dict[str, int]
    examples: dict[str, list[str]]
    bytes: int
    published: int
    same_bytes: int
    shards: int
    counted_shards: int
    shards_already_done: int
    failed: dict[str, str]
    seconds: float


def import_datacompdr(
    source: str | Path | Sequence[str | Path],
    published: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    num_views: int = 10,
    codec: str = DEFAULT_CODEC,
    crops_of: CropsOf = "picture",
    captions_from: str | None = None,
    teachers: Sequence[PublishedTeacher | ClipModel] = DATACOMPDR,
    progress: bool = True,
) -> ImportReport:
    """Write what was published for a source's pictures as a store, or what is missing of it.

    Args:
        source: shards with pictures and original captions; see `expand_sources`. Samples are
            joined by the `uid` in their JSON, else by their key.
        published: shards with `syn.json`, `paug.json`, `npz` or `pth.gz`; the same ones as
            `source` where both were put together.
        out: the store's folder, or any fsspec URL.
        num_views: how many of the published views to take, from the first on.
        codec: how embeddings are stored: float32, float16, bfloat16, int8 or int4.
        crops_of: which picture the published crops are pixels of: that in the source, or the
            `original` before it was downsized, whose size is in the JSON (`original_width`,
            `original_height`, as img2dataset writes them).
        captions_from: see `read_shard`.
        teachers: whose rows lie side by side, in order. Live ones, loaded with `load_teacher`, let
            `audit` embed samples again.
        progress: whether to draw a progress bar on stderr.

    Raises:
        ValueError: an argument or a source is not usable, the store has something else under
            these names, or nothing that was published fits the first shard.
        OSError: the store cannot be written; what is committed is whole.
        Interrupted: SIGINT, SIGTERM or SIGUSR1 came; the same call goes on.
    """
    if num_views < 1 or not teachers:
        raise ValueError(f"num_views and teachers must be at least 1, got {num_views}, {teachers}")
    if codec not in CODECS:
        raise unknown_name("codec for an import", codec, CODECS)
    if crops_of not in get_args(CropsOf):
        raise unknown_name("picture that crops are of", crops_of, get_args(CropsOf))
    started = time.perf_counter()
    shards, members = expand_sources(source), expand_sources(published)
    store = create_store(out, shards)
    plan = make_import_plan(
        store,
        num_views=num_views,
        codec=codec,
        crops_of=crops_of,
        captions_from=captions_from,
        teachers=teachers,
    )
    work = _Work(store, plan, progress)
    work.run(members)
    remove_leftovers(store)
    if work.failed and len(work.failed.keys() & set(store.sources)) == store.num_shards:
        raise ValueError("; ".join(work.failed.values()))
    return work.report(time.perf_counter() - started)


class _Work:
    """One call."""

    def __init__(self, store: Store, plan: ImportPlan, progress: bool) -> None:
        self._store, self._plan, self._progress = store, plan, progress
        self._already = self._done()
        self._published = self._same_bytes = 0
        self._written: set[int] = set()
        self.failed: dict[str, str] = {}

    def run(self, members: Sequence[str]) -> None:
        """Look up where everything lies, then go through the shards that are not done."""
        store = self._store
        if len(self._already) == store.num_shards:
            return
        with StopSignals() as signals:

            def stop_if_told() -> None:
                if signals.received:
                    raise self._interrupted(signals.received)

            published = self._index(members, stop_if_told)
            sizes = enumerate(store.source_bytes)
            left = sum(size for shard, size in sizes if shard not in self._already)
            bar = PackingBar("import", left, 0, self._progress, counted=False)

            def on_sample(size: int) -> None:
                bar.row(size)
                stop_if_told()

            with closing(published), bar:
                work = ImportPass(store, self._plan, published, on_sample)
                self._walk(work)
            self._same_bytes = work.same_bytes

    def _index(self, members: Sequence[str], stop_if_told: Callable[[], None]) -> PublishedIndex:
        with PackingBar("look up", len(members), 0, self._progress, unit="shards") as bar:

            def on_shard() -> None:
                bar.row()
                stop_if_told()

            published = PublishedIndex(members, on_shard)
        self.failed |= published.failed
        if not len(published):
            raise ValueError(
                f"{members[0]}{' and the others' if len(members) > 1 else ''} hold no published "
                f"samples: none has a paug.json. {'; '.join(published.failed.values())}".strip()
            )
        self._published = len(published)
        return published

    def _walk(self, work: ImportPass) -> None:
        walk = ShardWalk(self._store.num_shards, self._already, look=self._done)
        for shard in walk:
            try:
                if work.run(shard):
                    self._written.add(shard)
                else:
                    walk.met_another()
            except BrokenShard as error:
                self.failed[self._store.sources[shard]] = str(error)

    def _done(self) -> set[int]:
        return set.intersection(*(self._store.done(column) for column in self._plan.columns))

    def _interrupted(self, signum: int) -> Interrupted:
        return Interrupted(
            f"stopped by {signal.Signals(signum).name} with {len(self._done())} of "
            f"{self._store.num_shards} shards imported into {self._store.name}; the same command "
            "goes on from there",
            128 + signum,
        )

    def report(self, seconds: float) -> ImportReport:
        """Count what is committed."""
        plan = self._plan
        # A sample that was not published is null in several columns: it counts once.
        counted = count_commits(
            self._store, plan.columns, rows_of=plan.index, written=self._written, once=True
        )
        return ImportReport(
            **asdict(counted),
            published=self._published,
            same_bytes=self._same_bytes,
            shards_already_done=len(self._already),
            failed=self.failed,
            seconds=seconds,
        )
