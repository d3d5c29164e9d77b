"""Which classes a model takes for which: what to look at before renaming classes or adding data."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import torch

from distill.evaluation.embedding import AnySource, embed_source
from distill.evaluation.zero_shot import embed_classes
from teachers.clip_model import ClipModel, evaluating


class Confused(NamedTuple):
    """One class taken for another.

    Attributes:
        label: what the samples are.
        chosen: what the model says.
        count: how many of them.
        total: samples of that label.
    """

    label: str
    chosen: str
    count: int
    total: int


def confusions(
    model: ClipModel,
    source: AnySource,
    *,
    templates: Sequence[str] = ("{}",),
    most: int = 12,
    limit: int | None = None,
) -> list[Confused]:
    """List the most frequent confusions of zero-shot classification, among the source's labels.

    Returns:
        At most `most`, most frequent first; empty where the source has no labels.
    """
    found = embed_source(model, source, limit=limit)
    if not any(label is not None for label in found.labels):
        return []
    images, labels = found.labelled()
    names = sorted(set(labels))
    with evaluating(model), torch.no_grad():
        rows = embed_classes(model, names, templates)
    chosen = [names[place] for place in (images @ rows.T).argmax(1).tolist()]
    totals = Counter(labels)
    pairs = Counter(pair for pair in zip(labels, chosen, strict=True) if pair[0] != pair[1])
    # Equally frequent ones by the share of their class, then by name.
    ranked = sorted(pairs.items(), key=lambda p: (-p[1], totals[p[0][0]], p[0]))
    return [
        Confused(label=label, chosen=pick, count=count, total=totals[label])
        for (label, pick), count in ranked[:most]
    ]
