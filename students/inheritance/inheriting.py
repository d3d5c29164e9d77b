"""`inherit`: plan and apply in one call."""

from collections.abc import Iterable

from students.inheritance.applying import apply_plan
from students.inheritance.measuring import Batch, Loss
from students.inheritance.plan import InheritancePlan
from students.inheritance.planning import TOWERS, ByTower, plan_inheritance
from students.inheritance.selectors import Learned, Scorer
from teachers.clip_model import ClipModel


def inherit(
    student: ClipModel,
    donor: ClipModel,
    *,
    selector: str | Scorer | Learned | ByTower = "magnitude",
    depth: str | ByTower = "uniform",
    towers: Iterable[str] = TOWERS,
    batches: Iterable[Batch] | None = None,
    loss: Loss | None = None,
) -> InheritancePlan:
    """Start a student from a donor's weights; arguments as of `plan_inheritance`.

    Args:
        student: changed in place.
        donor: stays as it is.
        selector, depth, towers, batches, loss: see `plan_inheritance`.

    Returns:
        The plan that was carried out: what was inherited, what was not, and why.

    Raises:
        ValueError: as `plan_inheritance`; the student is unchanged then.
    """
    plan = plan_inheritance(
        student,
        donor,
        selector=selector,
        depth=depth,
        towers=towers,
        batches=batches,
        loss=loss,
    )
    apply_plan(plan, student, donor)
    return plan
