"""`open_dataset`: a reinforced dataset as a student's training data.

Reading one view costs one row per teacher: the files are mapped and nothing else of them is
touched. Which rows can be used is known from the commits alone.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from torch.utils.data import DataLoader

from reinforced_data.attention import attention_of_views
from reinforced_data.captions.policy import CaptionPolicy
from reinforced_data.reading.batches import Batch, BatchDataset
from reinforced_data.reading.open_shard import OpenShard
from reinforced_data.reading.order import SampleOrder
from reinforced_data.reading.shard_cache import ShardCache
from reinforced_data.reading.step_rows import Reading
from reinforced_data.reading.step_texts import CaptionShares
from reinforced_data.reading.stored_teachers import StoredTeacher, chosen_views, stored_teachers
from reinforced_data.reading.usable_rows import usable_rows
from reinforced_data.scores.weights import ScoreWeights
from reinforced_data.store.column_rows import IndexRows, ops_per_view
from reinforced_data.store.columns import ORIGINAL, Column, caption_sets, view_set_of
from reinforced_data.store.commits import Commit
from reinforced_data.store.layout import Store, open_store
from reinforced_data.store.many_commits import read_commits
from teachers import Preprocess, Tokenizer
from teachers.suggestions import unknown_name


class ReinforcedDataset:
    """A store opened for reading; `open_dataset` makes one."""

    def __init__(self, path: str | Path, view_set: str | None = None) -> None:
        """Read the column files; commits are read when they are needed."""
        self.path = str(path)
        self._open(view_set)

    def _open(self, view_set: str | None) -> None:
        self.store: Store = open_store(self.path)
        self.store.storage.cache = ShardCache()  # for what is remote
        self.columns: tuple[Column, ...] = tuple(self.store.columns())
        self.index = self._only("index")
        self._views = chosen_views(self.path, self.columns, view_set)
        self._captions = self._only("captions")
        self._caption_sets = caption_sets(self.columns)
        self.caption_sets = tuple(name for name in self._caption_sets if name != ORIGINAL)
        self.view_set: str = view_set_of(self._views)
        self.num_views: int = self._views.identity["num_views"]
        self.teachers = stored_teachers(self.store.storage, self.columns, self._views)
        self._commits: dict[str, dict[int, Commit]] = {}

    def __getstate__(self) -> dict[str, str]:
        """Pickle the path alone, and which view set was chosen."""
        return {"path": self.path, "view_set": self.view_set}

    def __setstate__(self, state: dict[str, str]) -> None:
        """Open again."""
        self.path = state["path"]
        self._open(state["view_set"])

    def with_view_set(self, name: str | None) -> "ReinforcedDataset":
        """Return the store as another of its view sets shows it; this one for None.

        Raises:
            ValueError: there is no such set.
        """
        return self if name in (None, self.view_set) else ReinforcedDataset(self.path, name)

    def _only(self, kind: str) -> Column:
        found = [column for column in self.columns if column.kind == kind]
        if kind == "captions":
            found = [column for column in found if column.identity.get("set") == ORIGINAL]
        if len(found) != 1:
            names = ", ".join(column.name for column in found) or "none"
            raise ValueError(
                f"{self.path} must have exactly one column of kind {kind}, it has {names}"
            )
        return found[0]

    @property
    def num_samples(self) -> int:
        """How many samples can be used with all teachers."""
        num_rows, excluded = self._rows(self.teachers)
        return sum(num_rows) - sum(map(len, excluded))

    @property
    def num_rows(self) -> int:
        """How many samples there are, with those that cannot be used."""
        return sum(commit.rows for commit in self._committed(self.index).values())

    @property
    def skipped(self) -> dict[str, int]:
        """Null rows by reason, over all columns."""
        commits = (commit for c in self.columns for commit in self._committed(c).values())
        return dict(Counter(skip.reason for commit in commits for skip in commit.skipped))

    @property
    def missing(self) -> dict[str, int]:
        """Columns that are not complete -> how many shards they lack. Training leaves those out."""
        lacking = {c.name: self.store.num_shards - len(self._committed(c)) for c in self.columns}
        return {name: count for name, count in lacking.items() if count}

    def scores(self, name: str) -> Iterator[tuple[str, float]]:
        """Yield key and score of every sample that has this one (`add_scores`), shard by shard.

        Raises:
            ValueError: there is no such score.
        """
        column = self._score(name)
        for shard in sorted(self._committed(column)):
            keys = IndexRows(self.store.rows(self.index, shard)).keys
            values = self.store.rows(column, shard)["score"].to_pylist()
            yield from ((k, v) for k, v in zip(keys, values, strict=True) if v is not None)

    def _score(self, name: str) -> Column:
        known = {c.identity["score"]: c for c in self.columns if c.kind == "scores"}
        if name not in known:
            raise ValueError(f"{self.path}: {unknown_name('score', name, known)}")
        return known[name]

    def captions(self) -> Iterator[str]:
        """Yield all original captions, shard by shard."""
        for shard in sorted(self._committed(self._captions)):
            for texts in self.store.rows(self._captions, shard)["captions"].to_pylist():
                yield from texts or ()

    def loader(
        self,
        *,
        preprocess: Preprocess | None,
        tokenizer: Tokenizer | None,
        batch_size: int,
        num_steps: int,
        start_step: int = 0,
        seed: int = 0,
        teachers: Sequence[str] | None = None,
        window_shards: int = 16,
        num_workers: int = 0,
        rank: int = 0,
        world_size: int = 1,
        views: int | None = None,
        captions: CaptionPolicy = CaptionPolicy(),  # noqa: B008 - frozen
        score_weights: ScoreWeights = ScoreWeights(),  # noqa: B008 - frozen
        whole_image: bool = False,
        pin_memory: bool = False,
        attention: bool = False,
    ) -> DataLoader[Batch]:
        """Make a loader of the batches of steps `start_step` to `num_steps`.

        The same arguments give the same batches, whatever `num_workers`, `start_step` and
        `world_size` are.

        Args:
            preprocess: the student's; views are rendered at its size. None reads no picture.
            tokenizer: the student's; with None there are no tokens.
            batch_size: samples per step over all ranks, which must divide it.
            num_steps: where training ends.
            start_step: where it begins.
            seed: of the order and the choice of views and captions.
            teachers: names, in the order wanted; None for all, () for none.
            window_shards: samples are shuffled among this many shards.
            num_workers: reading processes; 0 reads in this one.
            rank: which part of each batch is this process's.
            world_size: how many parts there are.
            views: use only the first so many views of each image.
            captions: which of a sample's texts are read.
            score_weights: how a stored score weighs the samples.
            whole_image: whole pictures instead of views; only without teachers.
            pin_memory: see DataLoader.
            attention: read the teacher's attention to each view (`reinforce(attention=...)`).

        Raises:
            ValueError: an argument is out of range, a name is unknown, or there is no whole batch.
        """
        chosen = self._choose(teachers, whole_image)
        num_views = self._check_reading(batch_size, rank, world_size, views)
        shares = self._shares(captions, chosen)
        scores = None if score_weights.score is None else self._score(score_weights.score)
        attended = attention_of_views(self.columns, self._views, self.path) if attention else None
        rows = self._rows(chosen, shares.sets, [*filter(None, [scores, attended])])
        order = SampleOrder(*rows, batch_size=batch_size, window_shards=window_shards, seed=seed)
        reading = Reading(
            preprocess=preprocess,
            tokenizer=tokenizer,
            teachers=chosen,
            captions=shares,
            scores=scores,
            score_weights=score_weights,
            num_views=num_views,
            num_ops=ops_per_view(self._views),
            seed=seed,
            rank=rank,
            world_size=world_size,
            whole_image=whole_image,
            attention=attended,
        )
        return DataLoader(
            BatchDataset(self, order, reading),
            batch_size=None,
            sampler=range(start_step, num_steps),
            num_workers=num_workers,
            pin_memory=pin_memory,
        )

    def open_shard(
        self,
        shard: int,
        teachers: Sequence[StoredTeacher],
        sets: Sequence[str] = (ORIGINAL,),
        scores: Column | None = None,
        attention: Column | None = None,
    ) -> OpenShard:
        """Open one shard's columns, of these caption sets, and its source."""
        return OpenShard(
            self.store,
            shard,
            index=self.index,
            views=self._views,
            captions=[self._caption_sets[name] for name in sets],
            teachers=[
                (one.image, [one.texts[name] for name in sets if one.texts]) for one in teachers
            ],
            scores=scores,
            attention=attention,
            commits={name: read[shard] for name, read in self._commits.items() if shard in read},
        )

    def _choose(self, names: Sequence[str] | None, whole_image: bool) -> tuple[StoredTeacher, ...]:
        known = {teacher.name: teacher for teacher in self.teachers}
        names = list(known) if names is None else names
        if whole_image and names:
            raise ValueError("whole_image=True needs teachers=(): teachers' rows belong to views")
        unknown = [name for name in names if name not in known]
        if unknown:
            message = unknown_name("teacher", unknown[0], known)
            raise ValueError(f"{self.path}, view set {self.view_set!r}: {message}")
        return tuple(known[name] for name in names)

    def _shares(self, policy: CaptionPolicy, teachers: Sequence[StoredTeacher]) -> CaptionShares:
        """Hold the policy against the store's sets and what these teachers have read of them."""
        try:
            shares = CaptionShares.of(policy, self.caption_sets)
        except ValueError as error:
            raise ValueError(f"{self.path}: {error}") from error
        for teacher in teachers:
            lacking = [name for name in shares.sets if name not in teacher.texts]
            if lacking and teacher.texts:
                raise ValueError(
                    f"{self.path}: the teacher {teacher.name!r} has no rows for the caption set "
                    f"{lacking[0]!r}. Write them: distill caption {self.path} --name {lacking[0]} "
                    f"--teachers {teacher.name}"
                )
        return shares

    def _check_reading(self, batch_size: int, rank: int, world_size: int, views: int | None) -> int:
        if batch_size < 1 or batch_size % world_size or not 0 <= rank < world_size:
            raise ValueError(
                f"batch_size counts all ranks and must be a multiple of world_size: got "
                f"{batch_size} for rank {rank} of {world_size}"
            )
        num_views = self.num_views if views is None else views
        if not 1 <= num_views <= self.num_views:
            raise ValueError(f"views must be 1 to {self.num_views}, got {views}")
        return num_views

    def _committed(self, column: Column) -> dict[int, Commit]:
        if column.name not in self._commits:
            shards = sorted(self.store.done(column))
            read = zip(shards, read_commits(self.store, [column], shards), strict=True)
            self._commits[column.name] = {s: c for s, (c,) in read if c is not None}
        return self._commits[column.name]

    def _rows(
        self,
        teachers: Sequence[StoredTeacher],
        sets: Sequence[str] = (ORIGINAL,),
        besides: Sequence[Column] = (),
    ) -> tuple[list[int], list[set[int]]]:
        """Return each shard's number of rows, and which of them cannot be used."""
        always = [self.index, self._views, *filter(None, (t.image for t in teachers)), *besides]
        of_sets = [
            [self._caption_sets[n], *(t.texts[n] for t in teachers if t.texts)] for n in sets
        ]
        return usable_rows(self.store.num_shards, self._committed, always, of_sets)


def open_dataset(path: str | Path, view_set: str | None = None) -> ReinforcedDataset:
    """Open a store that `reinforce` has written.

    Args:
        path: its folder or URL.
        view_set: which of its view sets to read; when None the only one, or the default one.

    Raises:
        ValueError: there is none, it is of another format version, or it has no such view set.
    """
    return ReinforcedDataset(path, view_set)
