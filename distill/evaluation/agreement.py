"""How alike student and teacher decide, sample by sample; equal scores may hide other mistakes.

Fidelity after Stanton et al. 2021, arXiv:2106.05945 (top-1 agreement), and what of the teacher's
right answers the student kept.
"""

from collections.abc import Mapping, Sequence

import torch

from distill.evaluation.embedding import AnySource, embed_source, source_name
from distill.evaluation.zero_shot import embed_classes, names_to_choose
from teachers.clip_model import ClipModel, evaluating


def agreement(
    student: ClipModel,
    teacher: ClipModel,
    source: AnySource,
    *,
    classes: Sequence[str] | None = None,
    templates: Sequence[str] = ("{}",),
    sentences: Mapping[str, Sequence[str]] | None = None,
    limit: int | None = None,
) -> dict[str, float]:
    """Return `agreement`, the share of samples that both put into the same class, and `kept_right`.

    `kept_right` is the share of the teacher's right answers that are the student's, too.

    Raises:
        ValueError: the source has no labels, or see `evaluate`.
    """
    names, chosen, right = [], [], []
    for model in (student, teacher):
        images, labels = embed_source(model, source, limit=limit).labelled("agreement")
        names = names_to_choose(labels, classes, source_name(source))
        with evaluating(model), torch.no_grad():
            rows = embed_classes(model, names, templates, sentences=sentences)
        picks = [names[place] for place in (images @ rows.T).argmax(1).tolist()]
        chosen.append(picks)
        right.append([pick == label for pick, label in zip(picks, labels, strict=True)])
    same = [a == b for a, b in zip(*chosen, strict=True)]
    kept = [own for own, theirs in zip(*right, strict=True) if theirs]
    found = {"agreement": sum(same) / len(same)}
    return found | ({"kept_right": sum(kept) / len(kept)} if kept else {})
