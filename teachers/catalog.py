"""The pretrained teachers that open_clip knows by `name/tag`, and the licences of their weights.

Licences are those of the model cards as far as known; they are a help, not legal advice, and None
says that nobody looked. What the data behind a teacher allows is another question.
"""

import re
from dataclasses import dataclass

import open_clip

from teachers.suggestions import did_you_mean

# (model name, tag) patterns -> licence of the weights; the first match counts.
_LICENCES: tuple[tuple[str, str, str], ...] = (
    (r".*", r"openai", "MIT"),
    (r".*CLIPA.*", r".*", "Apache-2.0"),
    (r".*SigLIP2?(-.*)?", r"webli", "Apache-2.0"),
    (r"EVA0.*", r".*", "MIT"),
    (r"nllb-.*", r".*", "CC-BY-NC-4.0"),
    (r"PE-Core-.*", r"meta", "Apache-2.0"),
    (r".*", r"metaclip.*", "CC-BY-NC-4.0"),
    (r".*", r"(dfn|datacompdr).*", "Apple AMLR (research only)"),
    (r"(?!ViTamin).*", r"(mscoco_finetuned_|frozen_)?(laion|datacomp|commonpool).*", "MIT"),
)


@dataclass(frozen=True, kw_only=True)
class PretrainedWeights:
    """One set of pretrained weights; `spec` is what `load_teacher` takes."""

    model: str
    tag: str
    licence: str | None

    @property
    def spec(self) -> str:
        """The `name/tag` that loads it."""
        return f"{self.model}/{self.tag}"


def list_teachers() -> tuple[PretrainedWeights, ...]:
    """Return every `name/tag` there is, in open_clip's order."""
    return tuple(
        PretrainedWeights(model=model, tag=tag, licence=licence_of(model, tag))
        for model, tag in open_clip.list_pretrained()
    )


def licence_of(model: str, tag: str) -> str | None:
    """Return the licence of the weights, or None where it is not known."""
    for model_pattern, tag_pattern, licence in _LICENCES:
        if re.fullmatch(model_pattern, model) and re.fullmatch(tag_pattern, tag):
            return licence
    return None


def find_entry(spec: str) -> PretrainedWeights:
    """Look up `name/tag`.

    Raises:
        ValueError: when name or tag are unknown or missing; suggests the nearest.
    """
    model, _, tag = spec.partition("/")
    listing = "`distill list teachers` prints all names and tags"
    pretrained = list(dict.fromkeys(name for name, _ in open_clip.list_pretrained()))
    if model not in pretrained:
        if model in open_clip.list_models():
            raise ValueError(
                f"open_clip has no pretrained weights for {model!r}, only its configuration. "
                f"A teacher needs weights: pass a folder or your own module, or choose another "
                f"({listing})"
            )
        raise ValueError(f"no teacher {model!r}{did_you_mean(model, pretrained)}; {listing}")
    tags = open_clip.list_pretrained_tags_by_model(model)
    clean = tag.lower().replace("-", "_")  # as open_clip itself reads tags
    if clean in tags:
        return PretrainedWeights(model=model, tag=clean, licence=licence_of(model, clean))
    choices = ", ".join(f"{model}/{choice}" for choice in tags)
    if not tag:
        raise ValueError(
            f"{model!r} names no weights: choose one of {choices}. (To use random weights, build "
            "the module yourself and pass it)"
        )
    hint = did_you_mean(clean, tags)
    raise ValueError(f"{model!r} has no weights {tag!r}{hint}; there are {choices}; {listing}")
