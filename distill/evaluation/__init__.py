"""Zero-shot classification and retrieval for teachers and students, by one evaluator."""

from distill.evaluation.evaluator import evaluate, retention
from distill.evaluation.ranking import recall_at, worst_ranks
from distill.evaluation.retrieval import retrieval
from distill.evaluation.zero_shot import TEMPLATES, zero_shot

__all__ = [
    "TEMPLATES",
    "evaluate",
    "recall_at",
    "retention",
    "retrieval",
    "worst_ranks",
    "zero_shot",
]
