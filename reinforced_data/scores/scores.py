"""`add_scores`: one number a sample, as a column of its own on a store that is there.

The numbers come from a table that somebody else has made, or are the cosines that a stored teacher
already gives: pictures, sources and models are not needed for either. Nothing else in the store is
touched.
"""

import hashlib
import signal
import struct
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track

from reinforced_data.reading.reader import ReinforcedDataset, open_dataset
from reinforced_data.reading.stored_teachers import StoredTeacher
from reinforced_data.scores.rows import scores_batch
from reinforced_data.stop_signals import Interrupted, StopSignals
from reinforced_data.store.column_rows import ImageRows, IndexRows, TextRows
from reinforced_data.store.columns import Column, make_column, slugify
from reinforced_data.store.commits import Skipped
from reinforced_data.store.layout import Store
from reinforced_data.store.leftovers import remove_leftovers
from teachers.suggestions import unknown_name

# A shard's scores, NaN where there is none; None while what they are made of is not there.
_Scorer = Callable[[int, list[str]], np.ndarray | None]


@dataclass(frozen=True, kw_only=True)
class ClipScore:
    """How well a stored teacher finds picture and captions to match.

    The mean cosine of the sample's stored views and its captions, all of them with each other.

    Attributes:
        teacher: a stored teacher's name.
        view_set: whose views; when None the only one, or the default one.
    """

    teacher: str
    view_set: str | None = None


@dataclass(frozen=True, kw_only=True)
class ScoreReport:
    """What a store holds of a score, and what this call did for it.

    Attributes:
        column: its column.
        samples: rows in the shards that are done.
        scored: how many have a score.
        skipped: those that have none, by reason; samples without a picture are not counted.
        mean, minimum, maximum: of the scores; None without any.
        shards: how many source shards are done.
        shards_already_done: how many of those were, when the call began.
        waiting: shards that `reinforce` has not finished; the same call does them later.
    """

    column: str
    samples: int
    scored: int
    skipped: dict[str, int]
    mean: float | None
    minimum: float | None
    maximum: float | None
    shards: int
    shards_already_done: int
    waiting: int


def add_scores(
    store: str | Path,
    name: str,
    scores: Mapping[str, float] | ClipScore,
    *,
    progress: bool = True,
) -> ScoreReport:
    """Add a score to a store, or complete one.

    Args:
        store: its folder or URL.
        name: what the score is called.
        scores: key -> number, as `read_scores` reads them from a table; or a `ClipScore`.
        progress: whether to draw a progress bar on stderr.

    Raises:
        ValueError: the name is no name, the store has another score of this name, a stored teacher
            is not there, or no key of the mapping is one of the store's.
        Interrupted: SIGINT, SIGTERM or SIGUSR1 came; the same call goes on.
    """
    if not name or slugify(name) != name:
        raise ValueError(
            f"a score's name is lower-case letters, digits and single hyphens, got {name!r}"
        )
    view_set = scores.view_set if isinstance(scores, ClipScore) else None
    dataset = open_dataset(store, view_set)
    if isinstance(scores, ClipScore):
        identity, scorer = _clip_score(dataset, scores)
    else:
        identity, scorer = _table(dataset, scores)
    index = dataset.index
    column = make_column(
        "scores", f"scores-{name}", {"score": name, **identity, "hangs_on": index.name}
    )
    _check_name(dataset.store, column)
    dataset.store.add_column(column)
    already = dataset.store.done(column)
    waiting = _write(dataset.store, index, column, already, scorer, progress)
    remove_leftovers(dataset.store)
    return _report(dataset.store, column, len(already), waiting)


def _check_name(store: Store, column: Column) -> None:
    for other in store.columns("scores"):
        same_name = other.identity.get("score") == column.identity["score"]
        if same_name and other.fingerprint != column.fingerprint:
            raise ValueError(
                f"{store.name} has another score {column.identity['score']!r} already "
                f"({other.name}), of other numbers. Give the new one another name"
            )


def _clip_score(dataset: ReinforcedDataset, asked: ClipScore) -> tuple[dict[str, object], _Scorer]:
    known = {teacher.name: teacher for teacher in dataset.teachers}
    if asked.teacher not in known:
        raise ValueError(
            f"{dataset.path}, view set {dataset.view_set!r}: "
            f"{unknown_name('teacher', asked.teacher, known)}"
        )
    teacher, store = known[asked.teacher], dataset.store
    image, text = teacher.image, teacher.text
    if image is None or text is None:
        raise ValueError(
            f"{dataset.path}: the teacher {asked.teacher!r} has rows of one modality alone, and "
            "a cosine needs both"
        )
    columns = (image, text)
    identity = {"source": "mean-cosine", "of": [column.name for column in columns]}

    def scorer(shard: int, keys: list[str]) -> np.ndarray | None:
        if any(store.commit(column, shard) is None for column in columns):
            return None
        images = ImageRows(image, store.rows(image, shard), dataset.num_views)
        texts = TextRows(text, store.rows(text, shard))
        return _cosines(teacher, images, texts)

    return identity, scorer


def _cosines(teacher: StoredTeacher, images: ImageRows, texts: TextRows) -> np.ndarray:
    """Mean cosine of each sample's views and captions; NaN where one of them is missing."""
    assert teacher.image_codec is not None and teacher.text_codec is not None
    encoded = images.all_encoded()
    num_rows, num_views, width = encoded.shape
    views = teacher.image_codec.unit_rows(encoded.reshape(-1, width), teacher.embed_dim)
    mean_view = views.reshape(num_rows, num_views, teacher.embed_dim).mean(1)
    offsets, vectors = texts.all_encoded()
    captions = teacher.text_codec.unit_rows(vectors, teacher.embed_dim)
    counts = np.diff(offsets)
    owners = np.repeat(np.arange(num_rows), counts)
    cosines = np.einsum("nd,nd->n", captions, mean_view[owners])
    sums = np.bincount(owners, weights=cosines, minlength=num_rows)
    there = images.valid & texts.valid & (counts > 0)
    return np.where(there, sums / np.maximum(counts, 1), np.nan)


def _table(
    dataset: ReinforcedDataset, scores: Mapping[str, float]
) -> tuple[dict[str, object], _Scorer]:
    digest = hashlib.sha256()
    for key in sorted(scores):
        digest.update(key.encode() + b"\0" + struct.pack("<f", scores[key]))
    store, index = dataset.store, dataset.index
    shards = sorted(store.done(index))
    if shards and not any(
        key in scores for shard in shards for key in IndexRows(store.rows(index, shard)).keys
    ):
        first = next(iter(scores), None)
        keys = IndexRows(store.rows(index, shards[0])).keys[:3]
        raise ValueError(
            f"none of the {len(scores):,} keys is one of {dataset.path}: the first is {first!r}, "
            f"the store's are like {keys}"
        )

    def scorer(shard: int, keys: list[str]) -> np.ndarray | None:
        return np.array([scores.get(key, np.nan) for key in keys], np.float64)

    return {"source": "table", "values_sha256": digest.hexdigest()}, scorer


def _write(
    store: Store,
    index: Column,
    column: Column,
    already: set[int],
    scorer: _Scorer,
    progress: bool,
) -> int:
    """Write the shards that are missing; return how many have to wait."""
    waiting, left = 0, [shard for shard in range(store.num_shards) if shard not in already]
    bar = track(left, "scores", console=Console(stderr=True), disable=not progress, transient=True)
    with StopSignals() as signals:
        for shard in bar:
            if signals.received:
                raise Interrupted(
                    f"stopped by {signal.Signals(signals.received).name} with "
                    f"{len(store.done(column))} of {store.num_shards} shards scored in "
                    f"{store.name}; the same command goes on from there",
                    128 + signals.received,
                )
            if store.commit(index, shard) is None:
                waiting += 1
                continue
            rows = IndexRows(store.rows(index, shard))
            values = scorer(shard, rows.keys)
            if values is None:
                waiting += 1
                continue
            valid = np.isfinite(values) & rows.valid
            skipped = [
                Skipped(row=row, key=rows.keys[row], reason="no-score")
                for row in np.flatnonzero(rows.valid & ~valid).tolist()
            ]
            batch = scores_batch(values.astype(np.float32), valid, rows.keys)
            store.write(column, shard, batch, skipped)
    return waiting


def _report(store: Store, column: Column, already: int, waiting: int) -> ScoreReport:
    samples, found, skipped = 0, [], Counter[str]()
    done = sorted(store.done(column))
    for shard in done:
        commit = store.commit(column, shard)
        assert commit is not None
        samples += commit.rows
        skipped.update(skip.reason for skip in commit.skipped)
        scores = store.committed_rows(commit)["score"]
        found.append(scores.drop_null().to_numpy())
    values = np.concatenate(found) if found else np.empty(0, np.float32)
    return ScoreReport(
        column=column.name,
        samples=samples,
        scored=len(values),
        skipped=dict(skipped),
        mean=float(values.mean(dtype=np.float64)) if len(values) else None,
        minimum=float(values.min()) if len(values) else None,
        maximum=float(values.max()) if len(values) else None,
        shards=len(done),
        shards_already_done=already,
        waiting=waiting,
    )
