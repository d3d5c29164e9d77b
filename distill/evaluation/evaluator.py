"""Evaluate any `ClipModel` on any source, and compare a student with its teacher.

Teachers and students go through the same code, each with its own preprocessing and tokenizer.
"""

from collections.abc import Callable, Mapping, Sequence

import torch

from distill.evaluation.embedding import (
    AnySource,
    Change,
    Embedded,
    check_finite,
    embed_source,
    source_name,
)
from distill.evaluation.held_out_loss import held_out_loss
from distill.evaluation.retrieval import retrieval, unique_texts
from distill.evaluation.zero_shot import (
    TEMPLATES,
    embed_classes,
    embed_texts,
    names_to_choose,
    zero_shot,
)
from teachers.clip_model import ClipModel, evaluating
from teachers.suggestions import unknown_name

TASKS = ("zero_shot", "retrieval")
# What `evaluate` returns beside scores: no fractions, nothing a student could retain a share of.
NOT_SCORES = ("samples", "skipped", "contrastive_loss")
# More is not better, or not the student's doing.
_NOT_RETAINED = (*NOT_SCORES, "ece", "confidence", "fooled", "probe_penalty")


def evaluate(
    model: ClipModel,
    source: AnySource,
    *,
    templates: str | Sequence[str] = ("{}",),
    sentences: Mapping[str, Sequence[str]] | None = None,
    tasks: Sequence[str] | None = None,
    classes: Sequence[str] | None = None,
    batch_size: int = 256,
    limit: int | None = None,
    captions_from: str | None = None,
    change: Change | None = None,
    on_batch: Callable[[int], None] | None = None,
) -> dict[str, float]:
    """Measure zero-shot accuracy and retrieval recall on a source.

    Args:
        model: a teacher or a student. Its training modes are put back afterwards.
        source: anything `open_source` takes, or an iterable of samples.
        templates: prompts with `{}` for the class name, or a name in `TEMPLATES`.
        sentences: more texts for a class, by its name (CuPL, SHiNe: see prompt_files.py).
        tasks: a subset of `TASKS`; by default those for which the source has labels or captions.
        classes: the names to choose from; by default all labels of the source.
        batch_size: images, or texts, at a time.
        limit: stop after so many samples.
        captions_from: see `open_source`.
        change: done to each picture's pixels at the model's size (stress.py has some).
        on_batch: called with the number of samples done, for a progress bar.

    Returns:
        Fractions `top1`, `top5`, `image_to_text_r1`, `_r5`, `_r10`, `text_to_image_r1`, `_r5`,
        `_r10` for the tasks done; with retrieval also `contrastive_loss`, in nats, at the
        model's own scale (held_out_loss.py); `samples` embedded, samples `skipped` as unusable.
        Ties count against the model.

    Raises:
        ValueError: an unknown task or template, a source without usable samples, a task asked for
            that the source cannot give, labels that are numbers or ids or none of `classes`, or
            embeddings that are not finite.
    """
    prompts = prompts_of(templates)
    if tasks is not None and (not tasks or set(tasks) - set(TASKS)):
        raise unknown_name("task", next(iter(set(tasks) - set(TASKS)), ""), TASKS)
    found = embed_source(
        model,
        source,
        batch_size=batch_size,
        limit=limit,
        captions_from=captions_from,
        change=change,
        on_batch=on_batch,
    )
    labelled = any(label is not None for label in found.labels)
    scores: dict[str, float] = {}
    with evaluating(model), torch.no_grad():
        if _wanted("zero_shot", tasks, labelled, source):
            scores |= _zero_shot(model, found, classes, prompts, sentences, batch_size)
        if _wanted("retrieval", tasks, any(found.captions), source):
            scores |= _retrieval(model, found, batch_size)
    if not scores:
        raise ValueError(f"the samples of {source_name(source)} have neither labels nor captions")
    return {**scores, "samples": float(len(found.labels)), "skipped": float(found.skipped)}


def retention(
    student: Mapping[str, float], teacher: Mapping[str, float] | None
) -> dict[str, float | None]:
    """Divide a student's scores by its teacher's, for every score that both have.

    None where the teacher scores 0; empty without a teacher. Keys may carry a prefix, as in
    `unseen_pairs/top1`; counts and what is not better for being more are left out.
    """
    shared = [key for key in student if key in (teacher or {})]
    return {
        key: student[key] / teacher[key] if teacher[key] else None
        for key in shared
        if teacher and key.rpartition("/")[2] not in _NOT_RETAINED
    }


def prompts_of(templates: str | Sequence[str]) -> Sequence[str]:
    """Return the prompts themselves, of a set by name, one prompt, or several."""
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


def _wanted(task: str, tasks: Sequence[str] | None, possible: bool, source: object) -> bool:
    """Tell whether to do a task; asked for by name, it must be possible."""
    if tasks is not None and task in tasks and not possible:
        needs = "label (a cls member)" if task == "zero_shot" else "caption (a txt or json member)"
        raise ValueError(
            f"{task} was asked for, but no sample of {source_name(source)} has a {needs}"
        )
    return possible and (tasks is None or task in tasks)


def _zero_shot(
    model: ClipModel,
    found: Embedded,
    classes: Sequence[str] | None,
    prompts: Sequence[str],
    sentences: Mapping[str, Sequence[str]] | None,
    batch_size: int,
) -> dict[str, float]:
    """Classify the samples that have a label."""
    images, labels = found.labelled("zero_shot")
    names = names_to_choose(labels, classes, found.source)
    rows = embed_classes(model, names, prompts, batch_size, sentences)
    check_finite(rows, model, "class names")
    return zero_shot(images, labels, names, rows)


def _retrieval(model: ClipModel, found: Embedded, batch_size: int) -> dict[str, float]:
    """Search among the samples that have a caption."""
    captioned = [i for i, texts in enumerate(found.captions) if texts]
    captions = [found.captions[i] for i in captioned]
    texts = unique_texts(captions)
    rows = embed_texts(model, texts, batch_size)
    check_finite(rows, model, "texts")
    images = found.images[captioned]
    loss = held_out_loss(model, images, [own[0] for own in captions], texts, rows)
    return {**retrieval(images, captions, texts, rows), "contrastive_loss": loss}
