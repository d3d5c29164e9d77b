"""What a source of teachers gives: a module, how it is fed, and what it could be rebuilt from."""

from dataclasses import dataclass
from typing import Any

from torch import nn

from teachers.contract import Modality, Preprocess, Tokenizer


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """What a source gives.

    Attributes:
        module: a `DualEncoder`, or one half of it.
        name: of the teacher.
        preprocess, tokenizer: how it is fed.
        licence: of the weights, where known.
        source: the architecture as JSON values (teachers/rebuilding.py); None where only its
            owner can build it.
        modality: the one that it has; both when None.
    """

    module: nn.Module
    name: str
    preprocess: Preprocess
    tokenizer: Tokenizer
    licence: str | None = None
    source: dict[str, Any] | None = None
    modality: Modality | None = None
