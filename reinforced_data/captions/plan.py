"""What a call of `caption` asks for, as columns, held against what the store has already.

A caption set is a column of kind `captions` under a name of its own; every captioner, seed, bound
and filter makes another column, so a name can only ever mean one set of texts.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from reinforced_data.captions.filters import Scorer
from reinforced_data.captions.settings import CaptionSettings
from reinforced_data.codecs.of_columns import codebook_path
from reinforced_data.codecs.product_quantization import NUM_BYTES
from reinforced_data.plan import check_same_settings
from reinforced_data.reading.stored_teachers import chosen_views
from reinforced_data.store.columns import (
    ORIGINAL,
    Column,
    caption_sets,
    make_column,
    slugify,
    view_set_of,
)
from reinforced_data.store.layout import Store
from teachers import Captioner, ClipModel
from teachers.suggestions import unknown_name

# Of how requests, seeds and filters are made; raise it when equal settings give other texts.
CAPTION_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class CaptionPlan:
    """The columns of one call.

    Attributes:
        index, originals: what is there already.
        captions: the set to be written.
        seen: the stored set that the captioner reads beside the originals, or None.
        texts: teachers with the columns of their rows for it.
        captioner: who writes; None where the set is only embedded.
        scorer: the filter by score, or None.
        settings: of the call.
    """

    index: Column
    originals: Column
    captions: Column
    seen: Column | None
    texts: tuple[tuple[ClipModel, Column], ...]
    captioner: Captioner | None
    scorer: Scorer | None
    settings: CaptionSettings

    @property
    def columns(self) -> tuple[Column, ...]:
        """What this call writes, in order."""
        return (self.captions, *(column for _, column in self.texts))

    @property
    def needs(self) -> tuple[Column, ...]:
        """What a shard has to have before."""
        needs = [self.index, self.originals, *([self.scorer.image] if self.scorer else [])]
        if self.captioner is None:
            needs.append(self.captions)
        if self.seen is not None:
            needs.append(self.seen)
        return tuple(needs)


def caption_seed(seed: int, key: str) -> int:
    """Return what a sample's captions are drawn from, below 2**63."""
    digest = hashlib.blake2b(f"write/{seed}/{key}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def make_caption_plan(
    store: Store,
    captioner: Captioner | None,
    settings: CaptionSettings,
    *,
    score_teacher: ClipModel | None,
    teachers: Sequence[ClipModel],
) -> CaptionPlan:
    """Name the columns and write their JSON files.

    Raises:
        ValueError: the name is none, the store has another set of this name, or none where it
            is only to be embedded, or a teacher has no column in the store.
    """
    name = settings.name
    _check_name(name)
    index, originals = _source_columns(store)
    scorer = None if score_teacher is None else _scorer(store, score_teacher, settings.min_score)
    seen = _seen(store, captioner, name)
    if captioner is None:
        captions = find_set(store, name)
    else:
        identity = {
            "set": name,
            **_written_by(captioner, settings),
            "min_words": settings.bounds.min_words,
            "max_words": settings.bounds.max_words,
            "score": None if scorer is None else _scored_by(scorer),
            "originals": originals.name,
            "hangs_on": index.name,
            "caption_version": CAPTION_VERSION,
            **({} if seen is None else {"reads": seen.name}),
        }
        facts = {
            "licence": captioner.licence,
            "provenance": dict(getattr(captioner, "provenance", {})),
        }
        captions = make_column("captions", f"captions-{name}", identity, facts)
        _check_conflicts(store, captions)
    texts = [pair for teacher in teachers for pair in _text_columns(store, teacher, captions)]
    for column in (captions, *(column for _, column in texts)):
        store.add_column(column)
    return CaptionPlan(
        index=index,
        originals=originals,
        captions=captions,
        seen=seen,
        texts=tuple(texts),
        captioner=captioner,
        scorer=scorer,
        settings=settings,
    )


def find_set(store: Store, name: str) -> Column:
    """Return a caption set that is there.

    Raises:
        ValueError: there is none of this name.
    """
    known = {n: c for n, c in caption_sets(store.columns()).items() if n != ORIGINAL}
    if name not in known:
        raise ValueError(f"{store.name}: {unknown_name('caption set', name, known)}")
    return known[name]


def _seen(store: Store, captioner: Captioner | None, name: str) -> Column | None:
    """The stored set that a captioner reads."""
    reads = getattr(captioner, "reads", None)
    if reads is None:
        return None
    if reads == name:
        raise ValueError(
            f"the caption set {name!r} cannot be made from itself: give the new one another name"
        )
    return find_set(store, reads)


def _written_by(captioner: Captioner, settings: CaptionSettings) -> dict[str, Any]:
    return {
        "captioner": captioner.name,
        "captioner_fingerprint": captioner.fingerprint,
        "num_captions": settings.num_captions,
        "seed": settings.seed,
    }


def _scored_by(scorer: Scorer) -> dict[str, Any]:
    return {
        "teacher": scorer.image.identity["teacher"],
        "teacher_fingerprint": scorer.image.identity["teacher_fingerprint"],
        "image_embeddings": scorer.image.name,
        "min_score": scorer.min_score,
    }


def _check_name(name: str) -> None:
    if name == ORIGINAL:
        raise ValueError(f"the caption set {ORIGINAL!r} is the source's own; give another name")
    if not name or slugify(name) != name:
        raise ValueError(
            f"a caption set's name is lower-case letters, digits and single hyphens, got {name!r}"
        )


def _source_columns(store: Store) -> tuple[Column, Column]:
    index = store.columns("index")
    originals = caption_sets(store.columns()).get(ORIGINAL)
    if not index or originals is None:
        raise ValueError(
            f"{store.name} has no samples yet; write them with distill reinforce (no teacher is "
            "needed for that)"
        )
    return index[0], originals


def _check_conflicts(store: Store, captions: Column) -> None:
    name = captions.identity["set"]
    same_name = [c for n, c in caption_sets(store.columns()).items() if n == name]
    check_same_settings(
        store, same_name, captions, f"caption set {name!r}", "another name (name=..., --name NAME)"
    )


def _of_teacher(store: Store, teacher: ClipModel, kind: str) -> list[Column]:
    """The columns that this very teacher has written.

    Raises:
        ValueError: there is none.
    """
    fingerprint = getattr(teacher, "fingerprint", None)
    if fingerprint is None:
        raise ValueError(
            f"{teacher.name} is a {type(teacher).__name__} without a fingerprint; teachers come "
            "from load_teacher(...), which also takes a ready module"
        )
    columns = store.columns(kind)
    found = [c for c in columns if c.identity["teacher_fingerprint"] == fingerprint]
    if not found:
        known = sorted({c.identity["teacher"] for c in columns})
        raise ValueError(
            f"the teacher {teacher.name} ({fingerprint[:12]}) has no {kind} in {store.name}; "
            f"its teachers are {', '.join(known) or 'none'}. Reinforce with it first; weights, "
            "precision, preprocessing and tokenizer must be those of then"
        )
    return found


def _text_columns(
    store: Store, teacher: ClipModel, captions: Column
) -> list[tuple[ClipModel, Column]]:
    """What this teacher's rows for a set are stored like: its rows for the originals."""
    found = []
    originals = caption_sets(store.columns())[ORIGINAL].name
    for stored in _of_teacher(store, teacher, "text_embeddings"):
        if stored.identity["hangs_on"] != originals:
            continue
        name, of_set = stored.identity["teacher"], captions.identity["set"]
        identity = {**stored.identity, "hangs_on": captions.name}
        facts = {"teacher": stored.facts["teacher"]}
        column = make_column("text_embeddings", f"text-{name}-{of_set}", identity, facts)
        if identity["codec"] in NUM_BYTES:
            codebook = store.storage.read(codebook_path(stored))
            store.storage.create(codebook_path(column), codebook)
        found.append((teacher, column))
    return found


def _scorer(store: Store, teacher: ClipModel, min_score: float | None) -> Scorer:
    if min_score is None:
        raise ValueError("a score teacher needs min_score, the lowest cosine that is kept")
    views = chosen_views(store.name, store.columns(), None)
    columns = _of_teacher(store, teacher, "image_embeddings")
    image = next((c for c in columns if c.identity["hangs_on"] == views.name), None)
    if image is None:
        raise ValueError(
            f"the teacher {teacher.name} has no rows for the view set {view_set_of(views)!r} in "
            f"{store.name}, only {', '.join(column.name for column in columns)}"
        )
    return Scorer(
        teacher=teacher,
        image=image,
        num_views=views.identity["num_views"],
        min_score=min_score,
    )
