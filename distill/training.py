"""The front door of stage 2: `train` resolves a recipe, trains, evaluates, saves and compares."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from distill.config import RunConfig
from distill.diverging import DivergedError
from distill.evaluation import retention
from distill.evaluation.label_checks import check_first_labels
from distill.evaluation.splits import evaluate_splits
from distill.fit_result import FitResult
from distill.locked_students import without_locked_encoders
from distill.mask_phase import shrink
from distill.objective import Objective
from distill.provenance import provenance
from distill.recipes import find_recipe
from distill.run_log import write_json
from distill.tracking import check_tracker
from distill.trainer import fit, fit_several
from reinforced_data import ReinforcedDataset, open_dataset
from students import Student
from students.composing import PartialStudent
from teachers import ClipModel


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """What a run came to; `OUT/result.json` holds the same, and which code made it.

    Attributes:
        student: trained, in eval mode.
        metrics: `split/metric` -> value; fractions between 0 and 1.
        retention: student / teacher for every metric, None for one where the teacher scores 0;
            None altogether where no teacher was evaluated.
        steps: optimizer steps.
        seconds: of training, evaluations left out.
        refused: samples left out of batches, by reason, over all processes and parts of the run.
        missing: columns of the store that are not complete -> how many shards they lack; training
            leaves those out.
        warnings: what stood in the way of learning; see `distill.health`.
        cost: tokens, seconds and memory of each token policy's steps; see docs/tokens.md.
    """

    student: Student
    metrics: dict[str, float]
    retention: dict[str, float | None] | None
    steps: int
    seconds: float
    refused: dict[str, int]
    missing: dict[str, int]
    warnings: list[str]
    cost: list[dict[str, float]]

    def as_json(self) -> dict[str, object]:
        """Everything but the weights, as JSON values."""
        return {
            "name": self.student.name,
            "image_params": self.student.image_params,
            "text_params": self.student.text_params,
            "steps": self.steps,
            "seconds": round(self.seconds, 3),
            "metrics": self.metrics,
            "retention": self.retention,
            "refused": self.refused,
            "missing": self.missing,
            "warnings": self.warnings,
            "cost": self.cost,
        }


def train(
    student: Student | None,
    data: ReinforcedDataset | str | Path,
    *,
    recipe: str | RunConfig = "demo",
    num_steps: int | None = None,
    objective: Objective | None = None,
    evaluate_on: str | Mapping[str, str] | None = None,
    teachers: Sequence[ClipModel] = (),
    out: str | Path | None = None,
    seed: int | None = None,
    show: bool = True,
) -> TrainResult:
    """Train a student on a reinforced dataset, without the teachers.

    Args:
        student: from `build_student`; trained in place. None where `recipe` reads both sides from
            the store (`RunConfig.lock`).
        data: an opened store, or its folder.
        recipe: a name (`distill list recipes`) or a complete configuration.
        num_steps: in place of the recipe's; a warm-up longer than a tenth of it is shortened.
        objective: in place of the recipe's.
        evaluate_on: shards to evaluate on at the end, or several by split name.
        teachers: evaluated on the same splits; `retention` compares with the first. A locked
            encoder (`RunConfig.lock`) is taken from the one of its name.
        out: folder for log, checkpoints and the student; the same call resumes. Nothing is
            written when None.
        seed: in place of the recipe's.
        show: draw a progress bar.

    Returns:
        The result; `result.student` is the object passed in, or its moving average, or with a
        locked encoder of the store put in, or the smaller student that masks found.
    """
    config = find_recipe(recipe) if isinstance(recipe, str) else recipe
    if num_steps is not None:
        masks = config.masks.of_length(config.schedule.num_steps, num_steps)
        schedule = config.schedule.of_length(num_steps)
        config = replace(config, schedule=schedule, masks=masks)
    if evaluate_on is not None:
        splits = {"": evaluate_on} if isinstance(evaluate_on, str) else dict(evaluate_on)
        config = replace(config, evaluate_on=splits)
    config = replace(
        config,
        objective=objective or config.objective,
        seed=config.seed if seed is None else seed,
        out=config.out if out is None else str(out),
    )
    own = config.student
    if student is not None:  # the recipe's own student is not the one that learns here
        named = {"name": student.name, "kind": student.kind}
        own = replace(own, **named, text_from=None, donor=None)
    view_set = config.data.view_set
    dataset = data if isinstance(data, ReinforcedDataset) else open_dataset(data, view_set)
    data_config = replace(config.data, store=dataset.path)  # which is not the recipe's either
    config = replace(config, student=own, data=data_config)
    return run(student, dataset, config, teachers=teachers, show=show)


def run(
    student: Student | None,
    dataset: ReinforcedDataset,
    config: RunConfig,
    *,
    teachers: Sequence[ClipModel] = (),
    show: bool = True,
) -> TrainResult:
    """Train, evaluate, save and compare as a configuration says, which must be true of `student`.

    Raises:
        ValueError: the objective does not fit the student, or what is evaluated is not there.
    """
    dataset = dataset.with_view_set(config.data.view_set)
    student = _ready(student, dataset, config, teachers)
    if config.masks.on:
        student = shrink(student, dataset, config, show=show)
    done = fit(student, dataset, config, show=show)
    return _finish(config, done, teachers, dataset.missing)


def run_several(
    students: Sequence[Student | None],
    dataset: ReinforcedDataset,
    configs: Sequence[RunConfig],
    *,
    show: bool = True,
) -> list[TrainResult]:
    """Do what `run` does for each, from one pass over the store.

    Raises:
        DivergedError: of the first run that diverged; the others are finished first.
        ValueError: as for `run`, or the runs cannot share a pass.
    """
    for config in configs:
        if config.masks.on or config.student.stages:
            raise ValueError(
                f"{config.out}: masks and stages train several students in a row, which cannot "
                "share a pass with others: train this one by itself"
            )
    dataset = dataset.with_view_set(configs[0].data.view_set)
    pairs = zip(students, configs, strict=True)
    ready = [_ready(student, dataset, config, ()) for student, config in pairs]
    done = fit_several(ready, dataset, configs, show=show)
    results = [
        _finish(config, one, (), dataset.missing)
        for config, one in zip(configs, done, strict=True)
        if isinstance(one, FitResult)
    ]
    for one in done:
        if isinstance(one, DivergedError):
            raise one
    return results


def _ready(
    student: Student | None,
    dataset: ReinforcedDataset,
    config: RunConfig,
    teachers: Sequence[ClipModel],
) -> Student:
    """Find out before training whether everything fits; leave out encoders that are stored."""
    check_tracker(config)
    if config.lock.sides and not isinstance(student, PartialStudent):
        student = without_locked_encoders(student, dataset, config, teachers)
    if student is None:
        raise ValueError("which student? Only one whose sides are both stored needs none")
    _check_kind(student, config.objective)
    _check_fastclip(student, config)
    _check_weights(config)
    _check_evaluation(config)
    return student


def _check_kind(student: Student, objective: Objective) -> None:
    if objective.kind == "sigmoid" and student.kind == "softmax":
        raise ValueError(
            f"objective.kind='sigmoid' needs a bias, and {student.name} has none: build it with "
            "build_student(..., kind='sigmoid'), or leave objective.kind out"
        )


def _check_fastclip(student: Student, config: RunConfig) -> None:
    if not config.objective.fastclip:
        return
    if student.kind == "sigmoid":
        raise ValueError(
            f"objective.fastclip is a softmax loss, and {student.name} has a bias: build it with "
            "kind='softmax', or leave objective.fastclip out"
        )
    if config.data.captions.kind == "sum":
        raise ValueError(
            "objective.fastclip keeps one mean for each sample, and data.captions.kind='sum' reads "
            "two texts of it at a time: take another kind"
        )


def _check_weights(config: RunConfig) -> None:
    objective = config.objective
    if config.data.score_weights.score and not (objective.contrastive or objective.affinity):
        raise ValueError(
            "data.score_weights weighs the contrastive and affinity terms, and both are off: set "
            "objective.contrastive or objective.affinity, or leave data.score_weights out"
        )


def _check_evaluation(config: RunConfig) -> None:
    """Find out before training whether what is read after it is there."""
    for source in config.evaluate_on.values():
        check_first_labels(source)
    if config.compare_to is not None:
        _compared_with(config.compare_to)


def _compared_with(path: str) -> dict[str, float]:
    """Read a teacher's metrics.

    Raises:
        ValueError: the file is not there, or holds none.
    """
    write = f"write it with `distill evaluate TEACHER --on ... --out {path}`"
    try:
        return dict(json.loads(Path(path).read_text())["metrics"])
    except OSError as error:
        raise ValueError(f"compare_to: {path} does not exist or cannot be read; {write}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"compare_to: {path} holds no metrics ({error!r}); {write}") from error


def _finish(
    config: RunConfig, done: FitResult, teachers: Sequence[ClipModel], missing: dict[str, int]
) -> TrainResult:
    """Compare with the teachers, and write the result; other processes have no metrics."""
    reference = _teacher_metrics(config, teachers) if done.is_main_process else {}
    result = TrainResult(
        student=done.student,
        metrics=done.metrics,
        retention=retention(done.metrics, reference) if reference and done.metrics else None,
        steps=done.steps,
        seconds=done.seconds,
        refused=done.refused,
        missing=missing,
        warnings=done.warnings,
        cost=done.cost,
    )
    if config.out and done.is_main_process:
        made_by = {"provenance": provenance()}
        write_json(Path(config.out) / "result.json", result.as_json() | made_by)
    return result


def _teacher_metrics(config: RunConfig, teachers: Sequence[ClipModel]) -> dict[str, float]:
    """Metrics of the first teacher, evaluated now or read from `compare_to`."""
    if teachers:
        return evaluate_splits(teachers[0], config.evaluate_on, templates=config.templates)
    if config.compare_to is None:
        return {}
    return _compared_with(config.compare_to)
