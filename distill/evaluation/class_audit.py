"""Does a test measure what it says: class names that mean the same, and test pictures seen before.

Two names that a text tower can hardly tell apart cap the accuracy whatever the student does; a test
picture that was trained on raises it. Near-duplicates go by a model's own cosine, so they are
candidates to look at, not a verdict; equal bytes are one.
"""

import hashlib
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from distill.evaluation.embedding import embed_source
from distill.evaluation.zero_shot import embed_classes
from reinforced_data.source import Sample, open_source
from teachers.clip_model import ClipModel, evaluating

_PER_SLICE = 2**23


@dataclass(frozen=True, kw_only=True)
class AlikeClasses:
    """Two class names.

    Attributes:
        first: a name.
        second: another.
        cosine: of their rows.
        same_spelling: whether they differ only in case, spaces and punctuation.
    """

    first: str
    second: str
    cosine: float
    same_spelling: bool


@dataclass(frozen=True, kw_only=True)
class Leak:
    """A test picture that is, or looks, trained on.

    Attributes:
        test_key: of the test sample.
        train_key: of the nearest training sample.
        cosine: of the two pictures; 1 where the bytes are equal.
        same_bytes: whether the files are equal.
    """

    test_key: str
    train_key: str
    cosine: float
    same_bytes: bool


def alike_classes(
    model: ClipModel,
    class_names: Sequence[str],
    *,
    templates: Sequence[str] = ("{}",),
    sentences: Mapping[str, Sequence[str]] | None = None,
    min_cosine: float = 0.95,
) -> list[AlikeClasses]:
    """List pairs of names with at least `min_cosine`, or of one spelling; nearest first.

    Each has the row that `evaluate` puts pictures under: see `embed_classes`.
    """
    names = list(dict.fromkeys(class_names))
    with evaluating(model), torch.no_grad():
        rows = embed_classes(model, names, templates, sentences=sentences)
    spelt = [_spelling(name) for name in names]
    step = max(1, _PER_SLICE // len(names))
    found = []
    for start in range(0, len(names), step):
        cosines = rows[start : start + step] @ rows.T
        for place, other in (cosines >= min_cosine).nonzero().tolist():
            if other > start + place:
                found.append((start + place, other, float(cosines[place, other])))
    near = {(a, b) for a, b, _ in found}
    by_spelling: dict[str, int] = {}
    for place, spelling in enumerate(spelt):
        first = by_spelling.setdefault(spelling, place)
        if first != place and (first, place) not in near:
            found.append((first, place, float(rows[first] @ rows[place])))
    return [
        AlikeClasses(
            first=names[a], second=names[b], cosine=cosine, same_spelling=spelt[a] == spelt[b]
        )
        for a, b, cosine in sorted(found, key=lambda pair: -pair[2])
    ]


@dataclass(frozen=True, kw_only=True)
class KnownPictures:
    """A source's pictures as a model sees them; `known_pictures` makes them.

    Attributes:
        source: where they are from.
        rows: unit rows.
        keys: of each row's sample.
        digests: SHA-256 of each one's bytes.
    """

    source: str
    rows: Float[Tensor, "n d"]
    keys: Sequence[str]
    digests: Sequence[str]


def known_pictures(model: ClipModel, source: str, *, limit: int | None = None) -> KnownPictures:
    """Embed a source's pictures, and keep what tells them apart.

    Raises:
        ValueError: it has no usable sample.
    """
    seen: list[tuple[str, str]] = []

    def noted() -> Iterator[Sample]:
        for sample in open_source(source):
            seen.append((sample.key, hashlib.sha256(sample.image).hexdigest()))
            yield sample

    found = embed_source(model, noted(), limit=limit)
    kept = [seen[place] for place in found.places]
    keys, digests = [key for key, _ in kept], [digest for _, digest in kept]
    return KnownPictures(source=source, rows=found.images, keys=keys, digests=digests)


def leaks(
    model: ClipModel,
    train: str | KnownPictures,
    test: str,
    *,
    min_cosine: float = 0.99,
    limit: int | None = None,
) -> list[Leak]:
    """List test pictures whose bytes, or nearly whose row, a training picture has.

    Args:
        model: whose image rows.
        train: source that was learnt from, or its pictures where several tests are asked about.
        test: source that is measured on.
        min_cosine: below this two pictures are not listed.
        limit: stop after so many samples of `test`; what was learnt from is searched whole.

    Raises:
        ValueError: a source has no usable sample.
    """
    trained = known_pictures(model, train) if isinstance(train, str) else train
    tested = known_pictures(model, test, limit=limit)
    known = dict(zip(trained.digests, trained.keys, strict=True))
    step = max(1, _PER_SLICE // len(trained.rows))
    found = []
    for start in range(0, len(tested.rows), step):
        best, nearest = (tested.rows[start : start + step] @ trained.rows.T).max(1)
        for place, (cosine, other) in enumerate(zip(best.tolist(), nearest.tolist(), strict=True)):
            key, digest = tested.keys[start + place], tested.digests[start + place]
            same = digest in known
            if same or cosine >= min_cosine:
                train_key = known[digest] if same else trained.keys[int(other)]
                cosine = 1.0 if same else cosine
                found.append(
                    Leak(test_key=key, train_key=train_key, cosine=cosine, same_bytes=same)
                )
    return sorted(found, key=lambda leak: (-leak.same_bytes, -leak.cosine))


def _spelling(name: str) -> str:
    folded = unicodedata.normalize("NFKC", name).casefold()
    # A name of signs alone is its signs: folded away, "+" and "-" would be one spelling.
    return "".join(filter(str.isalnum, folded)) or "".join(folded.split())
