"""Evaluate one model on several named sources."""

from collections.abc import Mapping, Sequence

from distill.evaluation.evaluator import evaluate
from distill.evaluation.zero_shot import TEMPLATES
from teachers.clip_model import ClipModel


def evaluate_splits(
    model: ClipModel,
    splits: Mapping[str, str],
    *,
    templates: Sequence[str] = ("{}",),
    classes: Sequence[str] | None = None,
    captions_from: str | None = None,
    limit: int | None = None,
) -> dict[str, float]:
    """Return `split/metric` -> value; the split named "" has no prefix. See `evaluate`."""
    # One word may be the name of a set of templates.
    given = templates[0] if len(templates) == 1 and templates[0] in TEMPLATES else tuple(templates)
    metrics: dict[str, float] = {}
    for split, source in splits.items():
        prefix = f"{split}/" if split else ""
        found = evaluate(
            model,
            source,
            templates=given,
            classes=classes,
            captions_from=captions_from,
            limit=limit,
        )
        metrics |= {prefix + name: value for name, value in found.items()}
    return metrics
