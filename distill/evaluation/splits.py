"""Evaluate one model on several named sources."""

from collections.abc import Mapping, Sequence

from distill.evaluation.evaluator import evaluate
from distill.evaluation.zero_shot import named_templates
from teachers.clip_model import ClipModel


def evaluate_splits(
    model: ClipModel,
    splits: Mapping[str, str],
    *,
    templates: Sequence[str] = ("{}",),
    sentences: Mapping[str, Sequence[str]] | None = None,
    classes: Sequence[str] | None = None,
    captions_from: str | None = None,
    limit: int | None = None,
) -> dict[str, float]:
    """Return `split/metric` -> value; the split named "" has no prefix. See `evaluate`."""
    given = named_templates(templates)
    metrics: dict[str, float] = {}
    for split, source in splits.items():
        prefix = f"{split}/" if split else ""
        found = evaluate(
            model,
            source,
            templates=given,
            sentences=sentences,
            classes=classes,
            captions_from=captions_from,
            limit=limit,
        )
        metrics |= {prefix + name: value for name, value in found.items()}
    return metrics
