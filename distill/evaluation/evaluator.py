"""Evaluate any `ClipModel` on any source, and compare a student with its teacher.

Teachers and students go through the same code, each with its own preprocessing and tokenizer.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from distill.evaluation.retrieval import retrieval, unique_texts
from distill.evaluation.zero_shot import TEMPLATES, embed_classes, embed_texts, zero_shot
from reinforced_data.source import Sample, Source, UnreadableImage, decode_image, open_source
from teachers.clip_model import ClipModel, evaluating
from teachers.suggestions import unknown_name

TASKS = ("zero_shot", "retrieval")
# What `evaluate` returns beside scores; nothing of which a student could retain a share.
COUNTS = ("samples", "skipped")


@dataclass(kw_only=True)
class _Embedded:
    """What is kept of a source: unit rows and texts, never pixels."""

    rows: list[Tensor] = field(default_factory=list)
    captions: list[tuple[str, ...]] = field(default_factory=list)
    labels: list[str | None] = field(default_factory=list)
    skipped: int = 0


def evaluate(
    model: ClipModel,
    source: str | Path | Sequence[str | Path] | Iterable[Sample],
    *,
    templates: str | Sequence[str] = ("{}",),
    tasks: Sequence[str] | None = None,
    classes: Sequence[str] | None = None,
    batch_size: int = 256,
    limit: int | None = None,
    captions_from: str | None = None,
    on_batch: Callable[[int], None] | None = None,
) -> dict[str, float]:
    """Measure zero-shot accuracy and retrieval recall on a source.

    Args:
        model: a teacher or a student. Its training modes are put back afterwards.
        source: anything `open_source` takes, or an iterable of samples.
        templates: prompts with `{}` for the class name, or a name in `TEMPLATES`.
        tasks: a subset of `TASKS`; by default those for which the source has labels or captions.
        classes: the names to choose from; by default all labels of the source.
        batch_size: images, or texts, at a time.
        limit: stop after so many samples.
        captions_from: see `open_source`.
        on_batch: called with the number of samples done, for a progress bar.

    Returns:
        Fractions `top1`, `top5`, `image_to_text_r1`, `_r5`, `_r10`, `text_to_image_r1`, `_r5`,
        `_r10` for the tasks done; `samples` embedded and samples `skipped` as unusable.
        Ties count against the model.

    Raises:
        ValueError: an unknown task or template, a source without usable samples, a task asked for
            that the source cannot give, or embeddings that are not finite.
    """
    prompts = _prompts(templates)
    if tasks is not None and (not tasks or set(tasks) - set(TASKS)):
        raise unknown_name("task", next(iter(set(tasks) - set(TASKS)), ""), TASKS)
    samples = _samples(source, captions_from)
    with evaluating(model), torch.no_grad():
        found = _embed_images(model, islice(samples, limit), batch_size, on_batch)
        if isinstance(samples, Source):
            found.skipped += samples.skipped.total()
        if not found.rows:
            raise ValueError(
                f"no image of {_name(source)} could be used ({found.skipped} skipped), so "
                f"there is nothing to evaluate {model.name} on"
            )
        images = torch.cat(found.rows)
        _check_finite(images, model, "images")
        scores: dict[str, float] = {}
        if _wanted("zero_shot", tasks, any(x is not None for x in found.labels), source):
            scores |= _zero_shot(model, images, found, classes, prompts, batch_size)
        if _wanted("retrieval", tasks, any(found.captions), source):
            scores |= _retrieval(model, images, found, batch_size)
    if not scores:
        raise ValueError(f"the samples of {_name(source)} have neither labels nor captions")
    return {**scores, "samples": float(len(images)), "skipped": float(found.skipped)}


def retention(
    student: Mapping[str, float], teacher: Mapping[str, float] | None
) -> dict[str, float | None]:
    """Divide a student's scores by its teacher's, for every score that both have.

    None where the teacher scores 0; empty without a teacher. Keys may carry a prefix, as in
    `unseen_pairs/top1`; counts are left out.
    """
    shared = [key for key in student if key in (teacher or {})]
    return {
        key: student[key] / teacher[key] if teacher[key] else None
        for key in shared
        if teacher and key.rpartition("/")[2] not in COUNTS
    }


def _prompts(templates: str | Sequence[str]) -> Sequence[str]:
    if not isinstance(templates, str):
        return templates
    if "{}" in templates:
        return (templates,)
    if templates not in TEMPLATES:
        raise ValueError(
            f"{unknown_name('set of templates', templates, TEMPLATES)}. Or give prompts with {{}} "
            "where the class name goes"
        )
    return TEMPLATES[templates]


def _samples(
    source: str | Path | Sequence[str | Path] | Iterable[Sample], captions_from: str | None
) -> Iterable[Sample]:
    if isinstance(source, str | Path):
        return open_source(source, captions_from=captions_from)
    if isinstance(source, Sequence) and all(isinstance(item, str | Path) for item in source):
        return open_source([str(item) for item in source], captions_from=captions_from)
    return source  # type: ignore[return-value]


def _name(source: object) -> str:
    return str(source) if isinstance(source, str | Path) else type(source).__name__


def _wanted(task: str, tasks: Sequence[str] | None, possible: bool, source: object) -> bool:
    """Tell whether to do a task; asked for by name, it must be possible."""
    if tasks is not None and task in tasks and not possible:
        needs = "label (a cls member)" if task == "zero_shot" else "caption (a txt or json member)"
        raise ValueError(f"{task} was asked for, but no sample of {_name(source)} has a {needs}")
    return possible and (tasks is None or task in tasks)


def _embed_images(
    model: ClipModel,
    samples: Iterable[Sample],
    batch_size: int,
    on_batch: Callable[[int], None] | None,
) -> _Embedded:
    """Decode in threads (decoders release the lock) and embed batch by batch."""
    found, remaining = _Embedded(), iter(samples)

    def view(sample: Sample) -> np.ndarray | None:
        try:
            return model.preprocess.whole_view(decode_image(sample.image))
        except UnreadableImage:
            return None

    with ThreadPoolExecutor(4) as pool:
        while batch := list(islice(remaining, batch_size)):
            views = zip(batch, pool.map(view, batch), strict=True)
            usable = [(sample, pixels) for sample, pixels in views if pixels is not None]
            found.skipped += len(batch) - len(usable)
            if usable:
                pixels = torch.from_numpy(np.stack([pixels for _, pixels in usable]))
                pixels = model.preprocess.normalize(pixels.to(model.device))
                found.rows.append(model.encode_image(pixels))
            found.captions += [sample.captions for sample, _ in usable]
            found.labels += [sample.label for sample, _ in usable]
            if on_batch is not None:
                on_batch(len(found.labels) + found.skipped)
    return found


def _check_finite(rows: Tensor, model: ClipModel, what: str) -> None:
    bad = int((~rows.isfinite().all(1)).sum())
    if bad:
        raise ValueError(
            f"{model.name} gave embeddings with nan or inf for {bad} of {len(rows)} {what}; its "
            "training has probably diverged, or its precision overflows"
        )


def _zero_shot(
    model: ClipModel,
    images: Tensor,
    found: _Embedded,
    classes: Sequence[str] | None,
    prompts: Sequence[str],
    batch_size: int,
) -> dict[str, float]:
    """Classify the samples that have a label."""
    labelled = [i for i, label in enumerate(found.labels) if label is not None]
    labels = [label for label in found.labels if label is not None]
    names = sorted(set(labels)) if classes is None else list(dict.fromkeys(classes))
    rows = embed_classes(model, names, prompts, batch_size)
    _check_finite(rows, model, "class names")
    return zero_shot(images[labelled], labels, names, rows)


def _retrieval(
    model: ClipModel, images: Tensor, found: _Embedded, batch_size: int
) -> dict[str, float]:
    """Search among the samples that have a caption."""
    captioned = [i for i, texts in enumerate(found.captions) if texts]
    captions = [found.captions[i] for i in captioned]
    texts = unique_texts(captions)
    rows = embed_texts(model, texts, batch_size)
    _check_finite(rows, model, "texts")
    return retrieval(images[captioned], captions, texts, rows)
