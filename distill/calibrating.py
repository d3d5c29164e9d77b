"""How soft each teacher's affinity targets should be: a sweep of short trainings.

MobileCLIP2 (arXiv:2508.20691, table 3) trained one student a teacher and scale and kept the best:
50 to 90 where the teachers' own scales are 100, and within 5 of the best it hardly mattered. Swept
here is the same, the factor on a teacher's own logit scale: the recipe's student, that teacher
alone, every other setting the recipe's, a given number of steps, scored on an evaluation split.
Left out: a sweep without training. What the scale is calibrated to by likelihood on true pairs is
the scale that the teacher was trained to, and its targets are too sharp to teach (docs/locked.md).
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from rich.console import Console

from distill.config import RunConfig
from distill.side_by_side import train_side_by_side
from reinforced_data import open_dataset
from reinforced_data.reading.reader import StoredTeacher
from reinforced_data.store.columns import slugify

SCALES = (1.0, 0.7, 0.5, 0.3, 0.15)
_METRICS = ("top1", "text_to_image_r1")


@dataclass(frozen=True, kw_only=True)
class Calibrated:
    """What the sweep found of one teacher.

    Attributes:
        teacher: its name in the store.
        own_scale: its logit scale, the factor itself.
        scores: what was scored at every factor, in the order swept.
        best: the factor with the highest score; the first of equal ones.
    """

    teacher: str
    own_scale: float
    scores: dict[float, float]
    best: float

    @property
    def kd_scale(self) -> float:
        """The scale that teaches best, as MobileCLIP2 states it."""
        return self.own_scale * self.best

    def as_json(self) -> dict[str, Any]:
        """JSON values."""
        scores = {str(factor): score for factor, score in self.scores.items()}
        return {**asdict(self), "scores": scores, "kd_scale": self.kd_scale}


def calibrate(
    config: RunConfig,
    *,
    scales: Sequence[float] = SCALES,
    num_steps: int = 400,
    metric: str | None = None,
    processes: int | None = None,
    console: Console,
) -> list[Calibrated]:
    """Train once a teacher and factor, and say which factor is best for which teacher.

    Args:
        config: of the run to calibrate for; `out` gets a folder a training. The same call goes on
            where it stopped, and trains nothing twice.
        scales: the factors.
        num_steps: of every training.
        metric: what is scored, `split/metric`; by default zero-shot top-1, or text-to-image
            recall at 1, of the first split.
        processes: trainings at once; one a core when None.
        console: shows progress.

    Raises:
        ValueError: nothing is evaluated, no term reads affinities, or no teacher has both
            modalities.
    """
    teachers = _check(config, scales)
    trainings = {
        (teacher.name, factor): _training(config, teacher.name, factor, num_steps)
        for teacher in teachers
        for factor in scales
    }
    results = train_side_by_side(list(trainings.values()), processes=processes, console=console)
    metric = metric or _metric(results[0]["metrics"], config)
    scored: dict[str, dict[float, float]] = {teacher.name: {} for teacher in teachers}
    for (name, factor), result in zip(trainings, results, strict=True):
        if metric not in result["metrics"]:
            known = ", ".join(sorted(result["metrics"]))
            raise ValueError(f"nothing is called {metric!r} in the results; there are {known}")
        scored[name][factor] = result["metrics"][metric]
    return [
        Calibrated(
            teacher=teacher.name,
            own_scale=teacher.logit_scale or 1.0,
            scores=scored[teacher.name],
            best=max(scored[teacher.name], key=scored[teacher.name].__getitem__),
        )
        for teacher in teachers
    ]


def _check(config: RunConfig, scales: Sequence[float]) -> list[StoredTeacher]:
    """The teachers to calibrate."""
    if not scales or min(scales) <= 0:
        raise ValueError(f"scales are factors above 0, got {tuple(scales)}")
    if not config.objective.affinity:
        raise ValueError(
            "this recipe's objective has no affinity, so a teacher's scale changes nothing: set "
            "objective.affinity"
        )
    if not config.evaluate_on:
        raise ValueError(
            "a scale is chosen by what the trained student scores: say on what, with a split that "
            "is not the one to report (--evaluate-on validation SHARDS)"
        )
    dataset = open_dataset(config.data.store, config.data.view_set)
    names = config.data.teachers
    found = [t for t in dataset.teachers if all(t.widths) and (names is None or t.name in names)]
    if not found:
        raise ValueError(f"{config.data.store} has no teacher of both modalities to calibrate")
    return found


def _training(config: RunConfig, teacher: str, factor: float, num_steps: int) -> RunConfig:
    """The recipe, shorter, with this teacher alone at this factor."""
    return replace(
        config,
        data=replace(config.data, teachers=(teacher,)),
        objective=replace(
            config.objective, teacher_scale=factor, teacher_scales=None, teacher_weights=None
        ),
        schedule=config.schedule.of_length(num_steps),
        out=f"{config.out}/{slugify(teacher)}/scale-{factor:g}",
    )


def _metric(metrics: dict[str, float], config: RunConfig) -> str:
    split = next(iter(config.evaluate_on))
    names = [f"{split}/{name}" if split else name for name in _METRICS]
    found = next((name for name in names if name in metrics), None)
    if found is None:
        raise ValueError(f"the split {split!r} gave none of {names}: name a metric")
    return found
