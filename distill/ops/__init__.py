"""Pure functions on tensors; the mathematics everything above stands on.

An op is a folder: `reference.py` looks like the equation and is never optimised, faster
implementations stand beside it, `__init__.py` checks arguments and picks one.
"""

from distill.ops.gathering import gather_embeddings, negatives_group
from distill.ops.image_text import ImageTextTerms, IntraModal, image_text_loss
from distill.ops.image_text.negatives import negative_log_sums
from teachers.contract import Embeddings

__all__ = [
    "Embeddings",
    "ImageTextTerms",
    "IntraModal",
    "gather_embeddings",
    "image_text_loss",
    "negative_log_sums",
    "negatives_group",
]
