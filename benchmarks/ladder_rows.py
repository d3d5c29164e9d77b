"""The rows: each a function of where things are, each one change away from its neighbour."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from distill.config import RunConfig
from distill.objective import Objective
from distill.recipes.demo import demo

SWEEP = (4e-3, 8e-3)


@dataclass(frozen=True, kw_only=True)
class Place:
    """Store, donor (the larger teacher's folder) and splits to evaluate on."""

    store: str
    donor: str
    splits: dict[str, str]


def distilled(place: Place, steps: int) -> RunConfig:
    """Every term of the demo's recipe, text tower from the teacher."""
    recipe = demo()
    warmup = min(recipe.schedule.warmup_steps, steps // 10)
    return replace(
        recipe,
        student=replace(recipe.student, text_from=place.donor),
        data=replace(recipe.data, store=place.store),
        schedule=replace(recipe.schedule, num_steps=steps, warmup_steps=warmup),
        evaluate_on=place.splits,
        save_every=0,
    )


def control(place: Place, steps: int) -> RunConfig:
    """The teacher's text tower, no distillation: what a table without this row hides."""
    return replace(distilled(place, steps), objective=Objective())


def undistilled(place: Place, steps: int) -> RunConfig:
    """The twin that learns from pictures and captions alone."""
    return _own_text(control(place, steps))


def own_text_tower(place: Place, steps: int) -> RunConfig:
    """Distilled, but the text tower starts from nothing and trains."""
    return _own_text(distilled(place, steps))


def _own_text(config: RunConfig) -> RunConfig:
    own = replace(config.student, text_from=None)
    return replace(config, student=own)


def _with(**changes: object) -> Callable[[Place, int], RunConfig]:
    """The distilled row with other values in its objective."""

    def row(place: Place, steps: int) -> RunConfig:
        config = distilled(place, steps)
        return replace(config, objective=replace(config.objective, **changes))

    return row


def one_teacher(place: Place, steps: int) -> RunConfig:
    """Distilled from the larger teacher alone."""
    config = distilled(place, steps)
    return replace(config, data=replace(config.data, teachers=("teacher-a",)))


def text_tower_locked(place: Place, steps: int) -> RunConfig:
    """Distilled with the teacher's text tower kept as it is."""
    config = distilled(place, steps)
    return replace(config, student=replace(config.student, lock_text=True))


ROWS: dict[str, Callable[[Place, int], RunConfig]] = {
    "undistilled": undistilled,
    "control": control,
    "distilled": distilled,
    "without-affinity": _with(affinity=0.0),
    "without-feature": _with(feature=0.0),
    "without-contrastive": _with(contrastive=0.0),
    "without-teacher-text": own_text_tower,
    "without-scale-calibration": _with(teacher_scale=1.0),
    "text-tower-locked": text_tower_locked,
    "one-teacher": one_teacher,
}
