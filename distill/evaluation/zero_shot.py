"""Zero-shot classification (CLIP, arXiv:2103.00020): class names in, accuracy out.

A class is the normalised mean of the unit embeddings of its name in every template.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor

from distill.evaluation.label_checks import label_places, refuse_ids
from distill.evaluation.ranking import recall_at, worst_ranks
from teachers.clip_model import ClipModel, unit_rows

_OWN: dict[str, tuple[str, ...]] = {
    "plain": ("{}",),
    "photo": ("a photo of a {}.",),
    # The subset of the 80 ImageNet templates that CLIP's authors found to be enough.
    "photo7": (
        "itap of a {}.",
        "a bad photo of the {}.",
        "a origami {}.",
        "a photo of the large {}.",
        "a {} in a video game.",
        "art of the {}.",
        "a photo of the small {}.",
    ),
}


class _Templates(Mapping[str, tuple[str, ...]]):
    """Sets by name; ImageNet's is loaded when it is asked for."""

    def __getitem__(self, name: str) -> tuple[str, ...]:
        return _imagenet() if name == "imagenet" else _OWN[name]

    def __iter__(self) -> Iterator[str]:
        return iter((*_OWN, "imagenet"))

    def __len__(self) -> int:
        return len(_OWN) + 1


@cache
def _imagenet() -> tuple[str, ...]:
    """The 80 prompts that published ImageNet scores are made with."""
    from open_clip import OPENAI_IMAGENET_TEMPLATES

    return tuple(template("{}") for template in OPENAI_IMAGENET_TEMPLATES)


TEMPLATES = _Templates()


def names_to_choose(
    labels: Sequence[str], classes: Sequence[str] | None, source: str = "the source"
) -> list[str]:
    """Return the given classes, each once, or all labels, sorted.

    Args:
        labels: of the samples.
        classes: the names to choose from, if they were given.
        source: what messages call the source.

    Raises:
        ValueError: a label is none of the given classes, or labels are numbers or ids.
    """
    names = sorted(set(labels)) if classes is None else list(dict.fromkeys(classes))
    if classes is None or not set(labels) <= set(names):
        refuse_ids(labels, source)
    label_places(labels, names)
    return names


def named_templates(given: Sequence[str]) -> tuple[str, ...]:
    """Return templates as they are, or the set that a single name means."""
    one_name = len(given) == 1 and given[0] in TEMPLATES
    return TEMPLATES[given[0]] if one_name else tuple(given)


def zero_shot(
    images: Float[Tensor, "n d"],
    labels: Sequence[str],
    class_names: Sequence[str],
    class_rows: Float[Tensor, "c d"],
) -> dict[str, float]:
    """Classify unit image rows; return `top1` and `top5` (1.0 where there are at most 5 classes).

    Raises:
        ValueError: a label is no class.
    """
    targets = torch.tensor(label_places(labels, class_names), device=images.device)
    right = torch.stack([torch.arange(len(targets), device=images.device), targets])
    ranks = worst_ranks(images, class_rows, right)
    return {"top1": recall_at(ranks, 1), "top5": recall_at(ranks, 5)}


@torch.no_grad()
def embed_classes(
    model: ClipModel,
    class_names: Sequence[str],
    templates: Sequence[str],
    batch_size: int = 256,
    sentences: Mapping[str, Sequence[str]] | None = None,
) -> Float[Tensor, "c d"]:
    """Embed class names: the mean over templates and sentences, normalised before and after.

    Args:
        model: whose text tower.
        class_names: one a row.
        templates: with `{}` for the name; none is enough for classes that have sentences.
        batch_size: texts at a time.
        sentences: more texts for a class (CuPL, arXiv:2209.03320, whose "both" is templates and
            sentences); names that are no class here are left out.

    Raises:
        ValueError: a class without a text, or a template without the place for the name.
    """
    for template in templates:
        if "{}" not in template:
            raise ValueError(f"a template needs {{}} where the class name goes, got {template!r}")
    texts = [
        [
            *(template.replace("{}", name) for template in templates),
            *(sentences or {}).get(name, ()),
        ]
        for name in class_names
    ]
    for name, own in zip(class_names, texts, strict=True):
        if not own:
            raise ValueError(
                f"there is no text for the class {name!r}: give a template, or sentences for it"
            )
    rows = embed_texts(model, [text for own in texts for text in own], batch_size)
    places = torch.repeat_interleave(torch.tensor([len(own) for own in texts])).to(rows.device)
    total = rows.new_zeros(len(texts), rows.shape[1]).index_add(0, places, rows)
    counts = torch.tensor([len(own) for own in texts], device=rows.device)
    return unit_rows(total / counts[:, None])


@torch.no_grad()
def embed_texts(
    model: ClipModel, texts: Sequence[str], batch_size: int = 256
) -> Float[Tensor, "n d"]:
    """Embed texts batch by batch."""
    starts = range(0, len(texts), batch_size)
    return torch.cat([model.encode_text(texts[i : i + batch_size]) for i in starts])
