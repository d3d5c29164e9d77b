"""A teacher's architecture from plain values: what a student that keeps its tower is rebuilt from.

The values travel in `student.json`; weights are the student's own file. Nothing is downloaded,
unless an open_clip configuration itself names a tower of the Hugging Face hub.
"""

from collections.abc import Mapping
from typing import Any

from torch import nn

from teachers.from_open_clip import open_clip_from_config
from teachers.from_timm import timm_from_config
from teachers.from_transformers_text import transformers_from_config

BUILDERS = {
    "open_clip_config": open_clip_from_config,
    "timm": timm_from_config,
    "transformers_text": transformers_from_config,
}


def rebuild_encoder(source: Mapping[str, Any]) -> nn.Module | None:
    """Build what `Teacher.source` describes, with random weights; None for an unknown type."""
    build = BUILDERS.get(source["type"])
    return None if build is None else build(source)
