"""Variants of a distilled run, one change each: what the demo and the ladder compare it with.

A variant takes a complete configuration whose text tower comes from a teacher
(`student.text_from`) and returns another. A table of distilled students without "control" hides
how much of the gain is the inherited tower's.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from distill.config import RunConfig
from distill.lock_config import LockConfig
from distill.objective import Objective

Variant = Callable[[RunConfig], RunConfig]


def control(config: RunConfig) -> RunConfig:
    """The teacher's text tower, no distillation."""
    return replace(config, objective=Objective(kind=config.objective.kind))


def own_text_tower(config: RunConfig) -> RunConfig:
    """The text tower starts from nothing."""
    return replace(config, student=replace(config.student, text_from=None))


def undistilled(config: RunConfig) -> RunConfig:
    """The twin that learns from pictures and captions alone."""
    return own_text_tower(control(config))


def text_tower_locked(config: RunConfig) -> RunConfig:
    """The teacher's text tower is kept as it is."""
    return replace(config, lock=LockConfig(tower="text"))


def sigmoid(config: RunConfig) -> RunConfig:
    """A student built with a bias: its contrastive loss is the pairwise sigmoid one (SigLIP)."""
    return replace(config, student=replace(config.student, kind="sigmoid"))


def feature_alone(config: RunConfig) -> RunConfig:
    """Only the feature term, at its weight."""
    weights = dict.fromkeys(("contrastive", "affinity", "interactive", "relational"), 0.0)
    return replace(config, objective=replace(config.objective, **weights, custom={}))


def feature_cosine(config: RunConfig) -> RunConfig:
    """Cosine in place of squared distance; of unit rows it is half of that, so twice the weight."""
    weight = 2 * config.objective.feature
    return _with(feature_distance="cosine", feature=weight)(config)


def _with(**changes: Any) -> Variant:
    """Other values in the objective."""

    def variant(config: RunConfig) -> RunConfig:
        return replace(config, objective=replace(config.objective, **changes))

    return variant


VARIANTS: dict[str, Variant] = {
    "undistilled": undistilled,
    "control": control,
    "distilled": lambda config: config,
    "without-affinity": _with(affinity=0.0),
    "without-feature": _with(feature=0.0),
    "without-contrastive": _with(contrastive=0.0),
    "without-teacher-text": own_text_tower,
    "without-scale-calibration": _with(teacher_scale=1.0),
    "text-tower-locked": text_tower_locked,
    "feature-alone": feature_alone,
    "feature-cosine": feature_cosine,
    "feature-mlp-adapter": _with(feature_adapter="mlp"),
    "feature-standardized": _with(feature_standardize=True),
    "teacher-dropping": _with(feature_teacher_dropping=0.5),
    "interactive": _with(interactive=1.0),
    "relational": _with(relational=1.0),
    "relational-distance": _with(relational=1.0, relational_kind="distance"),
    "mean-logit": _with(targets="mean_logit"),
    "sigmoid": sigmoid,
}
