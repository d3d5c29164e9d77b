"""Any tower from any donor: axes found by running the model, index maps, a plan, its application.

Reading order: `tracing` (which dimensions are one axis), `annotation` (a model as a table of
weights with named axes), `pairing`, `tower_plan`, `applying`. docs/inheritance.md has the why.
"""

from students.inheritance.annotation import Annotation, annotate
from students.inheritance.applying import apply_plan
from students.inheritance.inheriting import inherit
from students.inheritance.plan import InheritancePlan, load_plan
from students.inheritance.planning import plan_inheritance
from students.inheritance.pruning_importances import from_torch_pruning
from students.inheritance.selectors import Carrier

__all__ = [
    "Annotation",
    "Carrier",
    "InheritancePlan",
    "annotate",
    "apply_plan",
    "from_torch_pruning",
    "inherit",
    "load_plan",
    "plan_inheritance",
]
