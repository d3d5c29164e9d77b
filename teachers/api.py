"""The public names of `teachers`, which `teachers/__init__.py` hands out."""

from teachers.captioners.catalog import load_captioner
from teachers.captioners.rules import RuleCaptioner
from teachers.captioners.settings import CaptionerSettings
from teachers.captioning import Captioner, CaptionRequest
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
    "CaptionRequest",
    "Captioner",
    "CaptionerSettings",
    "ClipModel",
    "DualEncoder",
    "Embeddings",
    "Ensemble",
    "HuggingFaceTokenizer",
    "OpenClipTokenizer",
    "Preprocess",
    "PretrainedWeights",
    "RuleCaptioner",
    "Teacher",
    "Tokenizer",
    "WordTokenizer",
    "list_teachers",
    "load_captioner",
    "load_teacher",
    "load_tokenizer",
    "quantized_share",
]
