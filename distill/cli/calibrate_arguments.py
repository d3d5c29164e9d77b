"""The arguments of `distill calibrate`: with the recipe's fields in them, they need its modules."""

from dataclasses import dataclass
from typing import Annotated

import tyro

from distill.calibrating import SCALES
from distill.config import RunConfig


@dataclass(frozen=True, kw_only=True)
class CalibrateArguments:
    """Sweep the factor on each teacher's own logit scale by short trainings.

    Attributes:
        run: the recipe.
        scales: the factors to try.
        steps: of every training.
        metric: what is scored, SPLIT/METRIC; by default the first split's zero-shot top1.
        processes: trainings at once; one a core by default.
    """

    run: Annotated[RunConfig, tyro.conf.arg(name="")]
    scales: tuple[float, ...] = SCALES
    steps: int = 400
    metric: str | None = None
    processes: int | None = None
