"""Text encoders and language models of transformers as teachers: "hf-text:ID" or "hf-text:FOLDER".

A row is the mean of the last hidden states over the text's tokens (sentence encoders; LLM2CLIP,
arXiv:2411.04997, does so with a language model). The model is loaded without its language-model
head, and reads 77 tokens at most. Left out: sentence encoders that pool another way (their own
`1_Pooling` settings are not read), LLM2CLIP's fine-tuning of the model, and attention in both
directions in a causal one.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from teachers.hub import hub_or_cache
from teachers.loaded_model import LoadedModel
from teachers.tokenizers import HuggingFaceTokenizer
from teachers.unimodal import NO_PICTURES, OneEncoder

PREFIX = "hf-text:"
CONTEXT_LENGTH = 77


class MeanPooledText(OneEncoder):
    """A transformers encoder or decoder, its last hidden states averaged over a text's tokens."""

    def __init__(self, model: nn.Module, pad_id: int) -> None:
        """Take the model over; tokens equal to `pad_id` do not count."""
        super().__init__()
        self.text = model
        self.pad_id = pad_id

    def encode_text(self, tokens: Int64[Tensor, "n context"], /) -> Float[Tensor, "n d"]:
        """Embed token ids, padded on the right."""
        mask = tokens != self.pad_id
        # Attention needs one token to look at; of an empty text nothing is averaged.
        seen = mask | (torch.arange(tokens.shape[1], device=tokens.device) == 0)
        states = self.text(input_ids=tokens, attention_mask=seen.long()).last_hidden_state
        weights = mask.unsqueeze(-1).to(states)
        return (weights * states).sum(1) / weights.sum(1).clamp(min=1)


def from_transformers_text(name: str) -> LoadedModel:
    """Load a model and its fast tokenizer; downloads them unless they are cached.

    Args:
        name: of the Hugging Face hub, or a folder that `save_pretrained` wrote model and tokenizer
            to.

    Raises:
        ValueError: transformers is not installed, or the tokenizer has no fast form.
    """
    try:
        from transformers import AutoModel, AutoTokenizer
    except ImportError as error:
        raise ValueError(
            f"{PREFIX}{name} needs transformers ({error}): pip install 'clip-distill[caption]'"
        ) from error
    with hub_or_cache(f"{PREFIX}{name}", "a folder with model and tokenizer"):
        model = AutoModel.from_pretrained(name, use_safetensors=True).float()
        tokenizer = AutoTokenizer.from_pretrained(name, use_fast=True)
    if not getattr(tokenizer, "backend_tokenizer", None):
        raise ValueError(f"{name} has no tokenizer.json, by which a store knows what was read")
    pad = tokenizer.pad_token or tokenizer.eos_token
    if pad is None:
        raise ValueError(f"the tokenizer of {name} has neither a padding nor an end token")
    pad_id = int(tokenizer.convert_tokens_to_ids(pad))
    return LoadedModel(
        module=MeanPooledText(model, pad_id),
        name=transformers_name(name),
        preprocess=NO_PICTURES,
        tokenizer=HuggingFaceTokenizer(
            tokenizer.backend_tokenizer.to_str(),
            context_length=CONTEXT_LENGTH,
            padding={"direction": "right", "pad_id": pad_id, "pad_token": pad},
            clean="whitespace",
        ),
        source={
            "type": "transformers_text",
            "config": json.loads(model.config.to_json_string(use_diff=False)),
            "pad_id": pad_id,
        },
        modality="text",
    )


def transformers_name(name: str) -> str:
    """What the teacher is called in reports and stores: a folder by its own name."""
    folder = Path(name).expanduser()
    return PREFIX + (folder.resolve().name if folder.is_dir() else name)


def transformers_from_config(source: Mapping[str, Any]) -> nn.Module:
    """Build it again, with random weights."""
    from transformers import AutoConfig, AutoModel

    values = dict(source["config"])
    config = AutoConfig.for_model(values.pop("model_type"), **values)
    return MeanPooledText(AutoModel.from_config(config), source["pad_id"])
