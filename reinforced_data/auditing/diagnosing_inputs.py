"""Hypotheses about what the teacher was shown: other pixels, other views, other texts."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import product

import numpy as np

from reinforced_data.auditing.failing_samples import Candidate, FailingSamples
from reinforced_data.auditing.replaying import embed_strings, embed_views
from reinforced_data.pictures import Picture
from reinforced_data.views import View, render_view
from teachers import Preprocess

_NORMALISATIONS = {
    "OpenAI's mean and std": (
        (0.48145466, 0.4578275, 0.40821073),
        (0.26862954, 0.26130258, 0.27577711),
    ),
    "ImageNet's mean and std": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "mean and std 0.5 (SigLIP's)": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "pixels in 0..1, not normalised": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "pixels in 0..255, not normalised": ((0.0, 0.0, 0.0), (1 / 255, 1 / 255, 1 / 255)),
}


def preprocessed(case: FailingSamples) -> Iterator[Candidate]:
    """Another mean and std, another filter, red and blue swapped, or what the column records."""
    if not case.is_image:
        return
    teacher = case.replay.teacher
    for text, look, reverse in _looks(teacher.preprocess, _recorded_look(case)):
        live = embed_views(teacher, case.wanted, look=look, reverse_channels=reverse)
        said = f"the column was written with another preprocessing: {text}"
        errors = case.replay.errors_of(live, case.stored)
        yield Candidate(cause="preprocessing", text=said, errors=errors)


def _recorded_look(case: FailingSamples) -> Preprocess | None:
    config = case.replay.entry.column.facts.get("teacher", {}).get("preprocess")
    return Preprocess.from_config(config) if config else None


def _looks(own: Preprocess, recorded: Preprocess | None) -> list[tuple[str, Preprocess, bool]]:
    """Other looks, those that differ in one respect first."""
    looks, first = [], []
    if recorded is not None and recorded != own and recorded.image_size == own.image_size:
        said = f"the one it records, mean {recorded.mean}, std {recorded.std}, "
        first.append((said + recorded.interpolation, recorded, False))
    swapped = {"bilinear": "bicubic", "bicubic": "bilinear"}
    kinds = {"": (own.mean, own.std)} | {
        text: pair for text, pair in _NORMALISATIONS.items() if pair != (own.mean, own.std)
    }
    for text, interpolation, reverse in product(kinds, (None, *swapped), (False, True)):
        if interpolation == own.interpolation:
            continue
        mean, std = kinds[text]
        look = replace(own, mean=mean, std=std, interpolation=interpolation or own.interpolation)
        said = [text, f"{interpolation} resizing" if interpolation else "",
                "blue and red swapped (BGR)" if reverse else ""]  # fmt: skip
        parts = [part for part in said if part]
        if parts:
            looks.append((", ".join(parts), look, reverse))
    return first + sorted(looks, key=lambda look: look[0].count(", "))


def augmented_otherwise(case: FailingSamples) -> Iterator[Candidate]:
    """No view but the picture, a view without its operations, or a mirrored one."""
    if not case.is_image:
        return
    teacher = case.replay.teacher
    whole = [(data, replace(v, crop=(0.0, 0.0, 1.0, 1.0), ops=())) for data, v in case.wanted]
    cropped = [(data, replace(view, ops=())) for data, view in case.wanted]
    tried = {
        "the whole picture was embedded, not the view": (whole, render_view),
        "the picture was cropped as for evaluation": (whole, _evaluation_look),
        "the crop was embedded without its operations": (cropped, render_view),
        "the view was mirrored": (case.wanted, _mirrored),
    }
    for text, (wanted, render) in tried.items():
        live = embed_views(teacher, wanted, render=render)
        errors = case.replay.errors_of(live, case.stored)
        yield Candidate(cause="augmentation", text=text, errors=errors)


def _evaluation_look(picture: Picture, view: View, look: Preprocess) -> np.ndarray:
    return look.whole_view(picture.image())


def _mirrored(picture: Picture, view: View, look: Preprocess) -> np.ndarray:
    return render_view(picture, view, look)[:, ::-1]


def other_texts(case: FailingSamples) -> Iterator[Candidate]:
    """The texts in lower case, or in a template."""
    if case.is_image:
        return
    texts = [
        (case.shards[shard].texts[row] or [])[item]
        for (shard, row), item in zip(case.places, case.items, strict=True)
    ]
    tried = {
        "in lower case": [text.lower() for text in texts],
        "in the template 'a photo of a ...'": [f"a photo of a {text}" for text in texts],
    }
    for what, changed in tried.items():
        live = embed_strings(case.replay.teacher, changed)
        said = f"the texts were embedded {what}"
        errors = case.replay.errors_of(live, case.stored)
        yield Candidate(cause="preprocessing", text=said, errors=errors)
