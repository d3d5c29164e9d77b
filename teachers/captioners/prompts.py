"""Models that answer prompts, and the simplest captioner made of one: a picture and a request.

What a language model is asked (`PromptedCaptioner`, `rewriting.py`) is apart from where it runs
(`transformers_model.py` here, `endpoint.py` on a server), so that every recipe works with both.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from PIL import Image

from teachers.captioners.cleaning import clean_answer
from teachers.captioning import CaptionRequest

DESCRIBE = (
    "Describe this picture in one plain sentence, as a caption. Say what can be seen, and nothing "
    "that has to be guessed."
)


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """One question to a model.

    Attributes:
        key: of the sample it is about; for messages alone.
        text: what is asked; may be empty where the model only continues from a picture.
        seed: of all that is random in the answer, below 2**63.
        image: shown before the text, or None.
    """

    key: str
    text: str
    seed: int
    image: Image.Image | None = None


@runtime_checkable
class TextModel(Protocol):
    """Anything that answers prompts.

    Attributes:
        name: short and readable.
        fingerprint: SHA-256 in hex over all that decides an answer but the prompt.
        takes_images: whether a prompt may hold a picture.
        default_prompt: what it is asked about a picture where the user says nothing.
        licence: of the texts it writes, or None where it is not known.
        provenance: what is written beside the captions, JSON values; no secrets.
    """

    name: str
    fingerprint: str
    takes_images: bool
    default_prompt: str
    licence: str | None
    provenance: dict[str, Any]

    def answer(self, prompts: Sequence[Prompt], num_answers: int) -> list[list[str]]:
        """Return at most `num_answers` raw texts a prompt, in the order drawn."""
        ...


class PromptedCaptioner:
    """A model that sees, asked the same of every picture.

    Args:
        model: has to take pictures.
        prompt: what is asked; by default what the model proposes.

    Raises:
        ValueError: the model takes texts alone.
    """

    needs_image = True

    def __init__(self, model: TextModel, *, prompt: str | None = None) -> None:
        """Check that it sees."""
        if not model.takes_images:
            raise ValueError(
                f"{model.name} does not look at pictures: to write captions from texts alone, ask "
                "for rewrite:..., or choose an image-to-text model"
            )
        self.model = model
        self.prompt = model.default_prompt if prompt is None else prompt
        self.name = model.name
        self.licence = model.licence
        self.provenance = {**model.provenance, "prompt": self.prompt}
        self.fingerprint = fingerprint_of("prompted", model.fingerprint, self.prompt)

    def caption(self, requests: Sequence[CaptionRequest], num_captions: int) -> list[list[str]]:
        """Ask about every picture; answers are cleaned, empty ones left out."""
        prompts = [
            Prompt(key=request.key, text=self.prompt, seed=request.seed, image=request.image)
            for request in requests
        ]
        return cleaned(self.model.answer(prompts, num_captions))


def cleaned(answers: Sequence[Sequence[str]]) -> list[list[str]]:
    """Make captions of answers; those with nothing in them are left out."""
    return [[text for text in map(clean_answer, texts) if text] for texts in answers]


def fingerprint_of(*parts: object) -> str:
    """Return the SHA-256 of JSON values, in hex."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
