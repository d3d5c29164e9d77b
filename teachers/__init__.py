"""Frozen models: what a teacher is, how it is loaded, and several of them side by side.

    donor = load_teacher("ViT-B-16/openai")
    teachers = Ensemble(donor, load_teacher("ViT-L-14/datacomp_xl_s13b_b90k", precision="int8"))

Everything that differs between teachers stays with each: image size, normalisation, tokenizer,
head (softmax or sigmoid), scale and bias, precision, fingerprint and licence. `ClipModel` is what
teachers and students share.
"""

from teachers.catalog import CatalogEntry, list_teachers
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
    "CatalogEntry",
    "ClipModel",
    "DualEncoder",
    "Embeddings",
    "Ensemble",
    "HuggingFaceTokenizer",
    "OpenClipTokenizer",
    "Preprocess",
    "Teacher",
    "Tokenizer",
    "WordTokenizer",
    "list_teachers",
    "load_teacher",
    "load_tokenizer",
    "quantized_share",
]
