"""The public names of `teachers`, which `teachers/__init__.py` hands out."""

from teachers.catalog import PretrainedWeights, list_teachers
from teachers.clip_model import ClipModel
from teachers.contract import DualEncoder, Embeddings, Preprocess, Tokenizer
from teachers.ensemble import Ensemble
from teachers.loading import load_teacher
from teachers.quantization import quantized_share
from teachers.teacher import Teacher
from teachers.tokenizers import (
    HuggingFaceTokenizer,
    OpenClipTokenizer,
    WordTokenizer,
    load_tokenizer,
)

__all__ = [
    "ClipModel",
    "DualEncoder",
    "Embeddings",
    "Ensemble",
    "HuggingFaceTokenizer",
    "OpenClipTokenizer",
    "Preprocess",
    "PretrainedWeights",
    "Teacher",
    "Tokenizer",
    "WordTokenizer",
    "list_teachers",
    "load_teacher",
    "load_tokenizer",
    "quantized_share",
]
