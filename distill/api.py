"""The public names of `distill`, which `distill/__init__.py` hands out."""

from distill import losses, ops
from distill.config import RunConfig
from distill.evaluation import evaluate, retention
from distill.merging import MergeResult, merge
from distill.objective import Objective
from distill.standardizing import fit_standardization
from distill.starting import train_several
from distill.training import TrainResult, train

__all__ = [
    "MergeResult",
    "Objective",
    "RunConfig",
    "TrainResult",
    "evaluate",
    "fit_standardization",
    "losses",
    "merge",
    "ops",
    "retention",
    "train",
    "train_several",
]
