"""Any image-to-text or language model of the transformers library, as a `TextModel`.

    model = load_transformers("HuggingFaceTB/SmolVLM-256M-Instruct", precision="bf16")
    captioner = PromptedCaptioner(model)

Three kinds, told apart by the model's own configuration: image-to-text (BLIP, ViT-GPT2, LLaVA,
Qwen-VL, ...), causal language models, and encoder-decoder language models. Where there is a chat
template it is used. Tokens are drawn by `sampling.py`, so answers are a function of each prompt and
its seed; the library computes logits and keeps the cache.

Left out: repositories that bring their own code (`trust_remote_code`), beam search, several
pictures a prompt.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor

from teachers.captioners.cleaning import whole_sentences
from teachers.captioners.prompts import DESCRIBE, Prompt, fingerprint_of
from teachers.captioners.sampling import Sampling, draw_tokens, uniform_numbers
from teachers.teacher import hash_weights


class TransformersModel:
    """A transformers model that answers prompts.

    Args:
        model: anything with `generate`; in eval mode, on its device.
        processor: what `AutoProcessor` or `AutoTokenizer` gives for it; or, for models without a
            processor of their own, a pair (image processor, tokenizer). Its padding side is set.
        name: for columns and messages.
        sampling: of tokens.
        batch_size: answers at once.
        licence: of the weights, where known.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        *,
        name: str,
        sampling: Sampling = Sampling(),  # noqa: B008 - frozen
        batch_size: int = 16,
        licence: str | None = None,
    ) -> None:
        """Find out what the model is fed with, and fingerprint it."""
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self._model, self.name, self.sampling = model, name, sampling
        self.batch_size, self.licence = batch_size, licence
        pair = processor if isinstance(processor, tuple) else None
        self._pictures, self._texts = pair or (None, None)
        self._processor = None if pair else processor
        self._tokenizer = pair[1] if pair else getattr(processor, "tokenizer", processor)
        _prepare_padding(model, self._tokenizer)
        self.takes_images = bool(pair) or hasattr(processor, "image_processor")
        self._chats = bool(getattr(self._processor, "chat_template", None))
        self.default_prompt = DESCRIBE if self._chats else ""
        self._ends = _end_ids(model, self._tokenizer)
        self.provenance: dict[str, Any] = {
            "model": name,
            "weights": hash_weights(model),
            "dtype": str(next(model.parameters()).dtype).removeprefix("torch."),
            "sampling": asdict(sampling),
        }
        self.fingerprint = fingerprint_of(
            *("transformers", self.provenance, _definition(model.generation_config)),
            _definition(self._tokenizer),
            _definition(getattr(processor, "image_processor", self._pictures)),
            getattr(self._processor, "chat_template", None),
        )

    def answer(self, prompts: Sequence[Prompt], num_answers: int) -> list[list[str]]:
        """Return `num_answers` texts a prompt (one at temperature 0); they may be empty.

        An answer that reached `max_tokens` is cut back to its last whole sentence.
        """
        each = self.sampling.distinct(num_answers)
        count = max(1, self.batch_size // each)
        answers: list[list[str]] = []
        for start in range(0, len(prompts), count):
            chunk = prompts[start : start + count]
            rows = iter(self._generate(chunk, each))
            answers += [[self._spell(next(rows)) for _ in range(each)] for _ in chunk]
        return answers

    @torch.no_grad()
    def _generate(self, prompts: Sequence[Prompt], each: int) -> list[list[int]]:
        choice = _SeededChoice(prompts, each, self.sampling)
        inputs = self._inputs(prompts).to(self._model.device)
        for name, values in inputs.items():
            if isinstance(values, Tensor) and values.is_floating_point():
                inputs[name] = values.to(self._model.dtype)
        sequences = self._model.generate(
            **inputs,
            # The choice leaves one token possible; sampling is on because it expands a prompt's
            # answers after the encoder has run, where greedy search refuses several.
            **{"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "num_beams": 1},
            num_return_sequences=each,
            max_new_tokens=self.sampling.max_tokens,
            min_new_tokens=self.sampling.min_tokens,
            logits_processor=[choice],
        )
        return sequences[:, -choice.steps :].tolist()

    def _inputs(self, prompts: Sequence[Prompt]) -> Any:
        options = {"return_tensors": "pt", "padding": True}
        texts = [prompt.text for prompt in prompts]
        images = [prompt.image for prompt in prompts]
        if self.takes_images and None in images and not self._chats:
            raise ValueError(
                f"{self.name} looks at pictures and was given a text alone: for rewriting choose a "
                "language model, or one that chats"
            )
        if self._pictures is not None:
            if any(texts):
                raise ValueError(f"{self.name} takes a picture and no prompt, got {texts[0]!r}")
            return self._pictures(images=images, return_tensors="pt")
        processor: Any = self._processor
        if self._chats:
            conversations = [[{"role": "user", "content": self._content(p)}] for p in prompts]
            return processor.apply_chat_template(
                conversations,
                **{"add_generation_prompt": True, "tokenize": True, "return_dict": True},
                **options,
            )
        if not self.takes_images:
            return processor(texts, **options)
        given = {"text": texts} if any(texts) else {}
        return processor(images=images, **given, **options)

    def _content(self, prompt: Prompt) -> Any:
        if not self.takes_images:
            return prompt.text
        picture = [] if prompt.image is None else [{"type": "image", "image": prompt.image}]
        return [*picture, {"type": "text", "text": prompt.text}]

    def _spell(self, ids: list[int]) -> str:
        length = next((i for i, token in enumerate(ids) if token in self._ends), None)
        text = self._tokenizer.decode(ids[:length], skip_special_tokens=True)
        cut = length is None and len(ids) >= self.sampling.max_tokens
        return whole_sentences(text.strip()) if cut else text.strip()


class _SeededChoice:
    """A transformers logits processor that leaves the one token which the prompt's seed draws."""

    def __init__(self, prompts: Sequence[Prompt], each: int, sampling: Sampling) -> None:
        count = sampling.max_tokens
        self._uniforms = np.stack(
            [uniform_numbers(p.seed, i, count) for p in prompts for i in range(each)]
        )
        self._sampling = sampling
        self.steps = 0

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return 0 for the token drawn and -inf for all others, `(rows, vocab)`."""
        tokens = draw_tokens(scores, self._uniforms[:, self.steps], self._sampling)
        self.steps += 1
        return torch.full_like(scores, float("-inf")).scatter_(1, tokens[:, None], 0.0)


def _prepare_padding(model: Any, tokenizer: Any) -> None:
    """Pad on the left where a text goes on from its prompt's end, with whatever there is."""
    if not model.config.is_encoder_decoder:
        tokenizer.padding_side = "left"
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    if model.generation_config.pad_token_id is None:
        model.generation_config.pad_token_id = tokenizer.pad_token_id


def _end_ids(model: Any, tokenizer: Any) -> set[int]:
    configured = getattr(model.generation_config, "eos_token_id", None)
    ids = [*(configured if isinstance(configured, list) else [configured])]
    text = model.config.get_text_config(decoder=True)
    # BLIP ends with BERT's separator, and says so only inside its own generate().
    ids += [getattr(text, "sep_token_id", None), getattr(text, "eos_token_id", None)]
    ids += [tokenizer.eos_token_id, tokenizer.pad_token_id]
    return {token for token in ids if isinstance(token, int)}


def _definition(part: Any) -> Any:
    """Return what decides tokens or pixels, as JSON values: not paths, versions, or past use."""
    if part is None:
        return None
    if hasattr(part, "backend_tokenizer"):
        settings = json.loads(part.backend_tokenizer.to_str())
    else:
        settings = part.to_dict() if hasattr(part, "to_dict") else part.get_vocab()
    passing = ("padding", "truncation", "transformers_version", "_name_or_path")
    return {key: str(value) for key, value in settings.items() if key not in passing}
