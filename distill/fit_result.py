"""What the training loop did, as `train` and its report read it."""

from dataclasses import dataclass

from distill.stepping import Stepper
from students import Student


@dataclass(frozen=True, kw_only=True)
class FitResult:
    """What the loop did.

    Attributes:
        student: the trained student (its moving average when there is one), in eval mode.
        metrics: of the last evaluation, `split/metric`.
        steps: optimizer steps in all, those before a resume included.
        seconds: of this call's training steps, evaluations left out.
        refused: samples left out, by reason, over all processes and all parts of the run.
        warnings: what stood in the way of learning; each also in the log.
        cost: of each token policy in this call's steps; see `TokenSteps.costs`.
        is_main_process: whether this process is the one that writes.
        stepper: what was trained, with its optimizer.
    """

    student: Student
    metrics: dict[str, float]
    steps: int
    seconds: float
    refused: dict[str, int]
    warnings: list[str]
    cost: list[dict[str, float]]
    is_main_process: bool
    stepper: Stepper
