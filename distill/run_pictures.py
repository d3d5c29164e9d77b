"""What a run's student does with the pictures of a split it was evaluated on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distill.evaluation.confusions import confusions
from distill.evaluation.zero_shot import named_templates
from distill.report import Confusion, ConfusionMatrix, ImageToTextCase, RetrievalCase
from distill.retrieval_cases import retrieval_cases
from reinforced_data.source import expand_sources
from students import load_student


@dataclass(frozen=True, kw_only=True)
class Searched:
    """Cases and confusions, and why they are `missing` where they are."""

    cases: Sequence[RetrievalCase | ImageToTextCase] = ()
    confusions: Sequence[Confusion] = ()
    matrix: ConfusionMatrix | None = None
    missing: Mapping[str, str] = field(default_factory=dict)


def search(run: Path, config: Mapping[str, Any], split: str | None) -> Searched:
    """Search a split's pictures with a run's student.

    Args:
        run: the run's folder.
        config: its configuration.
        split: one of those it was evaluated on; the last one when None.

    Raises:
        ValueError: it was not evaluated on this split.
    """
    splits = config["evaluate_on"]
    if split is not None and split not in splits:
        raise ValueError(f"{run} was not evaluated on {split!r}; it has {', '.join(splits)}")
    if not splits:
        return _without("the best student was evaluated on nothing (--evaluate-on)")
    split = next(reversed(splits)) if split is None else split
    try:
        expand_sources(splits[split])
        student = load_student(run)  # of a module of one's own, or without its weights: neither
    except ValueError as error:
        return _without(str(error))
    templates = named_templates(config.get("templates") or ("{}",))
    found = confusions(student, splits[split], templates=templates)
    cases = retrieval_cases(student, splits[split])
    missing = {}
    if not cases:
        missing["Retrieval, with pictures"] = f"the samples of {split or 'the split'} have no texts"
    if not found.pairs:
        unlabelled = f"the samples of {split or 'the split'} have no labels (cls)"
        never = f"no sample of {split or 'the split'} was taken for another class"
        missing["Confusions"] = never if found.labelled else unlabelled
    return Searched(
        cases=cases,
        confusions=[Confusion(*pair) for pair in found.pairs],
        matrix=ConfusionMatrix(classes=found.classes, shares=found.shares) if found.pairs else None,
        missing=missing,
    )


def _without(why: str) -> Searched:
    return Searched(missing={"Retrieval, with pictures": why, "Confusions": why})
