"""The act of teaching, and the front door of clip-distill.

`train` a student on a reinforced dataset, `evaluate` any model, `losses` and `ops` for your own
loops. Teachers, students and data have packages of their own.
"""

from distill import losses, ops
from distill.config import RunConfig
from distill.evaluation import evaluate, retention
from distill.objective import Objective
from distill.training import TrainResult, train

__all__ = [
    "Objective",
    "RunConfig",
    "TrainResult",
    "evaluate",
    "losses",
    "ops",
    "retention",
    "train",
]
