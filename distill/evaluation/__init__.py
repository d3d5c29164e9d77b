"""Scores of teachers and students, by one evaluator."""

from distill.evaluation.class_audit import KnownPictures, alike_classes, known_pictures, leaks
from distill.evaluation.evaluator import evaluate, retention
from distill.evaluation.probing import linear_probe
from distill.evaluation.prompt_files import hierarchy_sentences, read_hierarchy, read_sentences
from distill.evaluation.ranking import recall_at, worst_ranks
from distill.evaluation.retrieval import retrieval
from distill.evaluation.sizes import at_size, check_size
from distill.evaluation.stress import corruption, lower_resolution, typographic_attack
from distill.evaluation.suite import TESTS, Suite, run_suite
from distill.evaluation.zero_shot import TEMPLATES, zero_shot

__all__ = [
    "TEMPLATES",
    "TESTS",
    "KnownPictures",
    "Suite",
    "alike_classes",
    "at_size",
    "check_size",
    "corruption",
    "evaluate",
    "hierarchy_sentences",
    "known_pictures",
    "leaks",
    "linear_probe",
    "lower_resolution",
    "read_hierarchy",
    "read_sentences",
    "recall_at",
    "retention",
    "retrieval",
    "run_suite",
    "typographic_attack",
    "worst_ranks",
    "zero_shot",
]
