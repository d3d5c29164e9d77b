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

    Ties count against the model, as in `evaluate`: what is left is its top-1 accuracy.

    Returns:
        At most `most` pairs and as many classes; all empty where the source has no labels.
    """
    found = embed_source(model, source, limit=limit)
    if not any(label is not None for label in found.labels):
        return Confusions(pairs=[], classes=[], shares=[], labelled=0)
    images, labels = found.labelled()
    names = sorted(set(labels))
    with evaluating(model), torch.no_grad():
        rows = embed_classes(model, names, templates)
    targets = torch.tensor([names.index(label) for label in labels], device=images.device)
    chosen = [names[place] for place in _choices(images @ rows.T, targets).tolist()]
    totals, answers = Counter(labels), Counter(zip(labels, chosen, strict=True))
    # Equally frequent ones by the share of their class, then by name.
    wrong = [(pair, count) for pair, count in answers.items() if pair[0] != pair[1]]
    ranked = sorted(wrong, key=lambda p: (-p[1], totals[p[0][0]], p[0]))[:most]
    classes = list(dict.fromkeys(name for pair, _ in ranked for name in pair))[:most]
    return Confusions(
        pairs=[
            Confused(*pair, count, totals[pair[0]], _cosine(rows, names, pair))
            for pair, count in ranked
        ],
        classes=classes,
        labelled=len(labels),
        shares=[[answers[a, b] / max(1, totals[a]) for b in classes] for a in classes],
    )


def _choices(scores: Float[Tensor, "n c"], targets: Int64[Tensor, " n"]) -> Int64[Tensor, " n"]:
    """The class of each row; the best wrong one unless the right one beats it clearly."""
    right = scores.gather(1, targets[:, None])[:, 0]
    best, wrong = scores.scatter(1, targets[:, None], -torch.inf).max(1)
    return torch.where(best < right - TIE, targets, wrong)


def _cosine(rows: Float[Tensor, "c d"], names: Sequence[str], pair: tuple[str, str]) -> float:
    a, b = (rows[names.index(name)] for name in pair)
    return float(a @ b)
