"""Captions by CoCa (Yu et al., 2022), as MobileCLIP makes its five per picture: sampled, top-p 0.9.

    captioner = coca_captioner("coca_ViT-L-14/mscoco_finetuned_laion2b_s13b_b90k", precision="bf16")

The captioner is a `Teacher` whose text decoder is put to use: the same weights can embed as well.
The towers are open_clip's own; the loop over tokens is ours (`coca_decoding.py`), because
open_clip's `generate` needs parts of transformers that version 5 removed, draws from the global
random state, and computes the picture once per caption. Temperature comes before top-p, as
everywhere but there; at temperature 1 there is no difference. Beam search is left out, and so are
CoCa models with a Hugging Face text tower (open_clip has no weights for them).
"""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from open_clip import list_pretrained
from torch import Tensor

from teachers.captioners.coca_decoding import CocaDecoder
from teachers.captioners.sampling import Sampling, draw_tokens, uniform_numbers
from teachers.captioning import CaptionRequest
from teachers.loading import load_teacher
from teachers.teacher import Precision, Teacher

# open_clip's lengths: 30 tokens with start and end, at least 5 with the start.
COCA_SAMPLING = Sampling(temperature=1.0, top_p=0.9, max_tokens=28, min_tokens=4)
_SENTENCE_END = re.compile(r"\s*[.!?](\s|$)")


class CocaCaptioner:
    """A CoCa model as a captioner: pictures to sampled captions.

    Args:
        teacher: whose module is an open_clip CoCa.
        sampling: of tokens.
        first_sentence: keep what is before the first full stop, as MobileCLIP does: CoCa's web
            texts go on with the page's next words.
        batch_size: captions at once; decides memory and speed.

    Raises:
        ValueError: the teacher has no text decoder, or a tokenizer that cannot spell.
    """

    needs_image = True

    def __init__(
        self,
        teacher: Teacher,
        *,
        sampling: Sampling = COCA_SAMPLING,
        first_sentence: bool = True,
        batch_size: int = 128,
    ) -> None:
        """Check that it can write at all."""
        self._ids = _special_ids(teacher)
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        longest = teacher.module.text_decoder.context_length - 1
        if sampling.max_tokens > longest:
            raise ValueError(
                f"{teacher.name} writes {longest} tokens at most, max_tokens is "
                f"{sampling.max_tokens}"
            )
        self._decoder = CocaDecoder(teacher.module)
        self.teacher = teacher
        self.sampling = sampling
        self.first_sentence = first_sentence
        self.batch_size = batch_size
        self.name = teacher.name
        self.licence = teacher.licence
        self.provenance: dict[str, Any] = {
            "model": teacher.name,
            "weights": teacher.fingerprint,
            "precision": teacher.precision,
            "sampling": asdict(sampling),
            "first_sentence": first_sentence,
        }
        written = json.dumps({"captioner": "coca", **self.provenance}, sort_keys=True)
        self.fingerprint = hashlib.sha256(written.encode()).hexdigest()

    def caption(self, requests: Sequence[CaptionRequest], num_captions: int) -> list[list[str]]:
        """Return the captions of each picture in the order drawn, without empty ones."""
        each = self.sampling.distinct(num_captions)
        pictures = max(1, self.batch_size // each)
        texts: list[list[str]] = []
        for start in range(0, len(requests), pictures):
            chunk = requests[start : start + pictures]
            rows = iter(self._write(chunk, each))
            drawn = [[next(rows) for _ in range(each)] for _ in chunk]
            texts += [[text for text in captions if text] for captions in drawn]
        return texts

    def _write(self, requests: Sequence[CaptionRequest], each: int) -> list[str]:
        images = [request.image for request in requests]
        assert all(image is not None for image in images), "a picture for every request"
        count = self.sampling.max_tokens
        uniforms = np.stack(
            [uniform_numbers(r.seed, i, count) for r in requests for i in range(each)]
        )
        dtype = torch.bfloat16 if self.teacher.precision == "bf16" else None
        pixels = self.teacher.to_pixels([image for image in images if image is not None])
        tokens = self._sample(pixels.to(dtype or pixels.dtype), uniforms)
        return [self._spell(row) for row in tokens.tolist()]

    @torch.no_grad()
    def _sample(
        self, pixels: Float[Tensor, "n 3 h w"], uniforms: Float64[np.ndarray, "rows max_tokens"]
    ) -> Int64[Tensor, "rows max_tokens"]:
        """Draw tokens for `rows / n` captions a picture; what follows an end has no meaning."""
        start, end, pad = self._ids
        writing = self._decoder.begin(pixels, each=len(uniforms) // len(pixels))
        written = torch.full(uniforms.shape, end, dtype=torch.int64, device=pixels.device)
        last = torch.full_like(written[:, 0], start)
        ended = torch.zeros_like(last, dtype=torch.bool)
        for step in range(self.sampling.max_tokens):
            logits = self._decoder.step(writing, last)
            if step < self.sampling.min_tokens:
                logits[:, [end, pad]] = float("-inf")
            last = draw_tokens(logits, uniforms[:, step], self.sampling)
            written[:, step] = last
            ended |= (last == end) | (last == pad)
            if bool(ended.all()):
                break
        return written

    def _spell(self, ids: list[int]) -> str:
        start, end, pad = self._ids
        length = next((i for i, token in enumerate(ids) if token in (end, pad)), len(ids))
        text = self.teacher.tokenizer.decode([token for token in ids[:length] if token != start])
        if self.first_sentence:
            text = _SENTENCE_END.split(text, maxsplit=1)[0]
        return " ".join(text.split())


def coca_captioner(
    spec: str | Path | torch.nn.Module,
    *,
    sampling: Sampling = COCA_SAMPLING,
    first_sentence: bool = True,
    batch_size: int = 128,
    precision: Precision = "fp32",
    device: str | torch.device = "cpu",
) -> CocaCaptioner:
    """Load a CoCa as a captioner.

    Args:
        spec: whatever `load_teacher` takes: an open_clip "coca_ViT-L-14/TAG", an hf-hub id
            ("hf-hub:apple/mobileclip2_coca_dfn2b_s13b_..."), a folder, or a ready `Teacher`, which
            keeps its own precision and device.
        sampling, first_sentence, batch_size: see `CocaCaptioner`.
        precision, device: of the weights.
    """
    if not isinstance(spec, Teacher):
        spec = load_teacher(spec, precision=precision, device=device)
    return CocaCaptioner(
        spec, sampling=sampling, first_sentence=first_sentence, batch_size=batch_size
    )


def _special_ids(teacher: Teacher) -> tuple[int, int, int]:
    """Return the ids of start, end and padding."""
    module: Any = teacher.module
    if not hasattr(module, "text_decoder"):
        known = ", ".join(f"{m}/{tag}" for m, tag in list_pretrained() if m.startswith("coca_"))
        raise ValueError(
            f"{teacher.name} is a {type(module).__name__}, which embeds texts but writes none: a "
            f"captioner needs a text decoder. open_clip's CoCa models have one: {known}"
        )
    tokenizer: Any = teacher.tokenizer
    vocab = module.text_decoder.text_projection.shape[-1]
    spells = all(hasattr(tokenizer, part) for part in ("start_id", "end_id", "decode"))
    if not spells or vocab > tokenizer.vocab_size:
        raise ValueError(
            f"the tokenizer of {teacher.name} ({type(tokenizer).__name__}, {tokenizer.vocab_size} "
            f"ids) cannot spell the {vocab} ids that the model writes: it needs start_id, end_id "
            "and decode(ids), as teachers.OpenClipTokenizer has for open_clip's own vocabulary"
        )
    return tokenizer.start_id, tokenizer.end_id, module.pad_id
