"""One student out of several of one architecture: WiSE-FT and soups, chosen on held-out data.

WiSE-FT (arXiv:2109.01903): a student before and after fine-tuning, and the best of the means
between them. Soups (arXiv:2203.05482): the mean of several runs, of all (uniform) or of those
that make it better (greedy). Every choice is made on `validation`; `report_on` is looked at once,
when the choice is made. Leaves out Fisher weights.
"""

import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from distill.averaging import check_same_shapes, has_running_statistics
from distill.evaluation.splits import evaluate_splits
from distill.merge_trials import Trials
from distill.run_log import write_json
from reinforced_data.source import expand_sources
from reinforced_data.store.layout import open_store
from students import Student, load_student

Method = Literal["wise-ft", "uniform", "greedy"]
ALPHAS = tuple(round(0.1 * step, 1) for step in range(11))
# Samples that BatchNorm statistics are measured on, unless `limit` says otherwise.
_STATISTICS = 4_096


@dataclass(frozen=True, kw_only=True)
class MergeResult:
    """What was merged and why.

    Attributes:
        student: the chosen mean, in eval mode.
        weights: of each student given, in order.
        metric: what was compared.
        tried: each mean looked at: its `weights` and its `metrics` on the validation data.
        report: the chosen one's metrics on `report_on`; empty without it.
    """

    student: Student
    weights: tuple[float, ...]
    metric: str
    tried: list[dict[str, Any]]
    report: dict[str, float]

    def as_json(self) -> dict[str, Any]:
        """Everything but the weights of the student."""
        return {
            "weights": self.weights,
            "metric": self.metric,
            "tried": self.tried,
            "report": self.report,
        }


def merge(
    students: Sequence[Student | str | Path],
    *,
    validation: str,
    method: Method = "wise-ft",
    alphas: Sequence[float] = ALPHAS,
    metric: str | None = None,
    templates: Sequence[str] = ("{}",),
    statistics_on: str | None = None,
    limit: int | None = None,
    report_on: str | None = None,
    out: str | Path | None = None,
    on_tried: Callable[[dict[str, Any]], None] | None = None,
) -> MergeResult:
    """Average students and keep the mean that is best on held-out data.

    Args:
        students: of one architecture, or their folders; for wise-ft two, before and after
            fine-tuning.
        validation: shards that no student was trained on and that nothing is reported on.
        method: wise-ft, uniform or greedy.
        alphas: shares of the second student that wise-ft tries.
        metric: what to compare, a name that `evaluate` returns; by default top1, and without
            labels text_to_image_r1.
        templates: as for `evaluate`.
        statistics_on: shards of training pictures, for students with BatchNorm.
        limit: so many samples of `validation`, of `statistics_on` and of `report_on` at most.
        report_on: test shards; the chosen student's metrics on them are in the result.
        out: folder for the student and merge.json. The same call goes on where it was stopped.
        on_tried: called with each row of `tried`.

    Raises:
        ValueError: the students do not correspond, or the data is not held out.
    """
    check_held_out([s for s in students if not isinstance(s, Student)], validation, report_on)
    loaded = [s if isinstance(s, Student) else load_student(s) for s in students]
    _check(loaded, method, alphas, statistics_on)
    check_same_shapes(loaded)
    trials = Trials(
        students=loaded,
        measure=lambda model, source: evaluate_splits(
            model, {"": source}, templates=templates, limit=limit
        ),
        validation=validation,
        statistics_on=statistics_on,
        limit=_STATISTICS if limit is None else limit,
        metric=metric,
        on_tried=on_tried,
    )
    if out is not None:
        given = [method, list(map(str, students)), validation, templates, statistics_on, limit]
        trials.remember_in(Path(out), given)
    weights = _choose(trials, method, len(loaded), alphas)
    chosen = trials.build(weights)
    result = MergeResult(
        student=chosen,
        weights=weights,
        metric=trials.metric or "",
        tried=trials.tried,
        report={} if report_on is None else trials.measure(chosen, report_on),
    )
    if out is not None:
        chosen.save(out)
        write_json(Path(out) / "merge.json", result.as_json())
    return result


def _choose(
    trials: Trials, method: Method, count: int, alphas: Sequence[float]
) -> tuple[float, ...]:
    """The weights of the best mean that the method looks at; of equals the first."""
    singles = [_uniform([number], count) for number in range(count)]
    if method == "wise-ft":
        return max([(1.0 - alpha, alpha) for alpha in alphas], key=trials.score)
    if method == "uniform":
        for single in singles:
            trials.score(single)
        whole = _uniform(range(count), count)
        trials.score(whole)
        return whole
    # Greedy: from the best on, each one stays in the soup if the soup is no worse for it.
    order = sorted(range(count), key=lambda number: -trials.score(singles[number]))
    kept, best = order[:1], trials.score(singles[order[0]])
    for number in order[1:]:
        score = trials.score(_uniform([*kept, number], count))
        if score >= best:
            kept, best = [*kept, number], score
    return _uniform(kept, count)


def _uniform(members: Iterable[int], count: int) -> tuple[float, ...]:
    """Equal weights for some of so many students, nothing for the others."""
    inside = set(members)
    return tuple(1 / len(inside) if number in inside else 0.0 for number in range(count))


def check_held_out(
    folders: Sequence[str | Path], validation: str | None, report_on: str | None
) -> None:
    """Refuse to choose on what a student was trained on, or on what is reported.

    Raises:
        ValueError: names a shard that is in both.
    """
    if not validation:
        raise ValueError(
            "merge chooses by held-out data and has none: give validation=SHARDS, which no student "
            "was trained on and which are not the test data"
        )
    held_out = _absolute(expand_sources(validation))
    others = {"report_on": _absolute(expand_sources(report_on)) if report_on else set()}
    others |= {f"the training data of {folder}": _trained_on(Path(folder)) for folder in folders}
    for what, shards in others.items():
        if both := sorted(held_out & shards):
            raise ValueError(
                f"validation is not held out: {both[0]} is in {what} too. Choose on other shards"
            )


def _trained_on(folder: Path) -> set[str]:
    """Source shards of the store in a run's configuration, as far as both are still there."""
    config = folder / "config.json"
    if not config.is_file():
        return set()
    store = json.loads(config.read_text())["data"]["store"]
    try:
        return set(open_store(store).sources) if store else set()
    except (OSError, ValueError):
        return set()  # moved or removed since


def _absolute(shards: Iterable[str]) -> set[str]:
    """As a store lists them."""
    return {shard if "://" in shard else os.path.abspath(shard) for shard in shards}


def _check(
    students: Sequence[Student], method: Method, alphas: Sequence[float], statistics_on: str | None
) -> None:
    """Refuse what has no meaning before anything is measured."""
    if method == "wise-ft" and len(students) != 2:
        raise ValueError(
            f"wise-ft goes from one student to another, before and after fine-tuning; got "
            f"{len(students)}. For several runs take uniform or greedy"
        )
    if len(students) < 2:
        raise ValueError(f"nothing to merge: {len(students)} student; give two or more")
    if not alphas or not all(0 <= alpha <= 1 for alpha in alphas):
        raise ValueError(f"alphas must be between 0 and 1, got {list(alphas)}")
    if statistics_on is None and has_running_statistics(students[0]):
        raise ValueError(
            f"{students[0].name} has BatchNorm, whose statistics are those of the weights before "
            "the merge: give statistics_on=SHARDS of training pictures to measure them anew"
        )
