"""Evaluate one model on several named sources."""

from collections.abc import Mapping, Sequence

from distill.evaluation.evaluator import evaluate
from teachers.clip_model import ClipModel


def evaluate_splits(
    model: ClipModel, splits: Mapping[str, str], *, templates: Sequence[str] = ("{}",)
) -> dict[str, float]:
    """Return `split/metric` -> value; the split named "" has no prefix."""
    metrics: dict[str, float] = {}
    for split, source in splits.items():
        prefix = f"{split}/" if split else ""
        found = evaluate(model, source, templates=tuple(templates))
        metrics |= {prefix + name: value for name, value in found.items()}
    return metrics
