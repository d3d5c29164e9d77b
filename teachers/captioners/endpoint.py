"""A model on a server that speaks OpenAI's chat completions, as a `TextModel`: vLLM, SGLang, TGI,
llama.cpp, Ollama, or a provider.

    model = EndpointModel("http://localhost:8000/v1", "Qwen/Qwen2.5-VL-7B-Instruct")
    captioner = PromptedCaptioner(model)

One request an answer, each with a seed of its own: every server can do that, and those that cache
prompts read a picture once. What the server makes of the seed is its own affair, so equal runs give
equal captions only where it keeps to it. Nobody can hash weights behind an address: the fingerprint
is of the model's name, not of the address, and moving a server changes nothing.

Left out: batch APIs with files, streaming.
"""

import base64
import hashlib
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from PIL import Image

from teachers.captioners.at_once import answer_at_once
from teachers.captioners.cleaning import whole_sentences
from teachers.captioners.posting import Halt, Patience, Poster
from teachers.captioners.prompts import DESCRIBE, Prompt, fingerprint_of
from teachers.captioners.retries import Retries
from teachers.captioners.sampling import Sampling

# Not a provider's own variable: nobody's key should go to an address it was not made for.
KEY_VARIABLE = "CAPTION_API_KEY"


class EndpointModel:
    """A served model that answers prompts, with or without pictures.

    Args:
        url: up to and with "/v1"; http or https.
        model: its name on that server.
        sampling: what the server is asked to do; `min_tokens` is not part of the protocol.
        concurrency: requests under way at once, never more.
        patience: with failures.
        key_variable: the environment variable with the key; none is sent where it is not set. The
            key is read at every call, and neither written down nor shown.
        max_side: pictures are made smaller to this many pixels, and sent as JPEG.
        body: more fields of the request, or other values; None leaves a field out. It is written
            beside the captions: no secrets.
        licence: of what the model writes, where known.

    Raises:
        ValueError: an address that is none, or that holds a password.
    """

    takes_images = True
    default_prompt = DESCRIBE

    def __init__(
        self,
        url: str,
        model: str,
        *,
        sampling: Sampling = Sampling(),  # noqa: B008 - frozen
        concurrency: int = 8,
        patience: Patience = Patience(),  # noqa: B008 - frozen
        key_variable: str = KEY_VARIABLE,
        max_side: int = 768,
        body: Mapping[str, Any] | None = None,
        licence: str | None = None,
    ) -> None:
        """Check the address; ask nothing yet."""
        self.url = _completions(url)
        if not model:
            raise ValueError(f"which model of {url}? endpoint:URL#MODEL, or model=...")
        if min(concurrency, max_side) < 1:
            raise ValueError("concurrency and max_side must be at least 1")
        self.name, self.sampling, self.licence = model, sampling, licence
        self.concurrency, self.patience, self.key_variable = concurrency, patience, key_variable
        self.retries = Retries()
        self.max_side, self._body = max_side, dict(body or {})
        decisive = {
            "model": model,
            "sampling": asdict(sampling),
            "max_side": max_side,
            "body": self._body,
        }
        self.fingerprint = fingerprint_of("endpoint", decisive)
        self.provenance: dict[str, Any] = {**decisive, "endpoint": self.url}

    def answer(self, prompts: Sequence[Prompt], num_answers: int) -> list[list[str]]:
        """Ask for every answer in a request of its own.

        Raises:
            ValueError: the server refuses a request for good; names the sample.
            ConnectionError: a request got no answer in all its attempts.
        """
        each = self.sampling.distinct(num_answers)
        poster = Poster(self.url, key=self._key(), patience=self.patience, retries=self.retries)
        halt = Halt()
        tasks = [
            partial(self._ask, poster, prompt, number, halt)
            for prompt in prompts
            for number in range(each)
        ]
        texts = iter(answer_at_once(tasks, self.concurrency, halt))
        return [[next(texts) for _ in range(each)] for _ in prompts]

    def _ask(self, poster: Poster, prompt: Prompt, number: int, halt: Halt) -> str:
        seed = hashlib.sha256(f"{prompt.seed}/{number}".encode()).digest()
        body = {
            "model": self.name,
            "messages": [{"role": "user", "content": self._content(prompt)}],
            "temperature": self.sampling.temperature,
            "top_p": self.sampling.top_p,
            "max_tokens": self.sampling.max_tokens,
            "seed": int.from_bytes(seed[:4], "big") >> 1,  # some servers hold it in 32 bits
            **self._body,
        }
        body = {field: value for field, value in body.items() if value is not None}
        try:
            return poster.post(body, _text_of, halt)
        except ValueError as error:
            raise ValueError(f"sample {prompt.key!r}: {error}{self._hint(error)}") from error

    def _content(self, prompt: Prompt) -> str | list[dict[str, Any]]:
        if prompt.image is None:
            return prompt.text
        url = {"url": _data_url(prompt.image, self.max_side)}
        return [{"type": "image_url", "image_url": url}, {"type": "text", "text": prompt.text}]

    def _key(self) -> str:
        key = os.environ.get(self.key_variable, "").strip()
        if not key.isascii() or not key.isprintable() or " " in key:
            raise ValueError(
                f"the environment variable {self.key_variable} holds what no key can be: spaces, "
                "line breaks or letters outside ASCII"
            )
        return key

    def _hint(self, error: ValueError) -> str:
        if not any(code in str(error) for code in ("HTTP 401", "HTTP 403")):
            return ""
        known = "was sent" if self._key() else "is not set"
        return f". The key of the environment variable {self.key_variable} {known}"


def _completions(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{url!r} is no address of a server: expected http(s)://host[:port]/v1")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise ValueError(
            f"the address of {parts.hostname} holds a password, a query or a fragment, which would "
            f"be written down with the captions: put a key into {KEY_VARIABLE} instead"
        )
    url = url.rstrip("/")
    return url if url.endswith("/chat/completions") else f"{url}/chat/completions"


def _data_url(image: Image.Image, max_side: int) -> str:
    image = image.convert("RGB")
    image.thumbnail((max_side, max_side))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=90)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()


def _text_of(answer: Any) -> str:
    """Return the text of a chat completion; a filtered or empty one is an empty text."""
    try:
        choice = answer["choices"][0]
        content = choice["message"].get("content") or ""
        if isinstance(content, list):
            content = "".join(part.get("text", "") for part in content)
        reason = choice.get("finish_reason")
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error
    if reason == "content_filter" or not isinstance(content, str):
        return ""
    return whole_sentences(content) if reason == "length" else content
