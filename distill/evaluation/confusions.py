"""Which classes a model takes for which: what to look at before renaming classes or adding data."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from distill.evaluation.embedding import AnySource, embed_source
from distill.evaluation.ranking import TIE
from distill.evaluation.zero_shot import embed_classes
from teachers.clip_model import ClipModel, evaluating


class Confused(NamedTuple):
    """One class taken for another.

    Attributes:
        label: what the samples are.
        chosen: what the model says.
        count: how many of them.
        total: samples of that label.
        cosine: of the two classes' texts: near 1 the model cannot tell the names apart.
    """

    label: str
    chosen: str
    count: int
    total: int
    cosine: float


@dataclass(frozen=True, kw_only=True)
class Confusions:
    """The confusions of zero-shot classification.

    Attributes:
        pairs: the most frequent ones, most frequent first.
        classes: those of the first pairs, in their order, so that neighbours stand together.
        shares: of class i's samples, the share that is taken for class j.
        labelled: how many samples have a label.
    """

    pairs: list[Confused]
    classes: list[str]
    shares: list[list[float]]
    labelled: int


def confusions(
    model: ClipModel,
    source: AnySource,
    *,
    templates: Sequence[str] = ("{}",),
    most: int = 12,
    limit: int | None = None,
) -> Confusions:
    """List the most frequent confusions of zero-shot classification, among the source's labels.

    Of equally frequent ones first those with the larger share of their class, then those of the
    nearest texts: where each class has one sample, all are equally frequent.

    Ties count against the model, as in `evaluate`: what is left is its top-1 accuracy.

    Returns:
        At most `most` pairs and as many classes; all empty where the source has no labels.
    """
    found = embed_source(model, source, limit=limit)
    if not any(label is not None for label in found.labels):
        return Confusions(pairs=[], classes=[], shares=[], labelled=0)
    images, labels = found.labelled("confusions")
    names = sorted(set(labels))
    with evaluating(model), torch.no_grad():
        rows = embed_classes(model, names, templates)
    place = {name: number for number, name in enumerate(names)}
    targets = torch.tensor([place[label] for label in labels], device=images.device)
    chosen = [names[number] for number in _choices(images @ rows.T, targets).tolist()]
    totals, answers = Counter(labels), Counter(zip(labels, chosen, strict=True))
    wrong = [
        Confused(a, b, count, totals[a], float(rows[place[a]] @ rows[place[b]]))
        for (a, b), count in answers.items()
        if a != b
    ]
    ranked = sorted(wrong, key=lambda pair: (-pair.count, pair.total, -pair.cosine, pair))[:most]
    classes = list(dict.fromkeys(name for pair in ranked for name in pair[:2]))[:most]
    return Confusions(
        pairs=ranked,
        classes=classes,
        labelled=len(labels),
        shares=[[answers[a, b] / max(1, totals[a]) for b in classes] for a in classes],
    )


def _choices(scores: Float[Tensor, "n c"], targets: Int64[Tensor, " n"]) -> Int64[Tensor, " n"]:
    """The class of each row; the best wrong one unless the right one beats it clearly."""
    right = scores.gather(1, targets[:, None])[:, 0]
    best, wrong = scores.scatter(1, targets[:, None], -torch.inf).max(1)
    return torch.where(best < right - TIE, targets, wrong)
