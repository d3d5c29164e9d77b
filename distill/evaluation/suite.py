"""Everything beside the plain scores that a student should be asked before it is shipped.

A test is a row of `TESTS`; its scores are named after it. Each is a pass over the source of its
own, so pictures are never kept; class names are embedded once for all of them.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import chain

import torch
from torch import Tensor

from distill.evaluation.agreement import agreement
from distill.evaluation.calibration import calibration
from distill.evaluation.embedding import (
    AnySource,
    Change,
    Embedded,
    check_finite,
    embed_source,
    first,
)
from distill.evaluation.label_checks import no_labels
from distill.evaluation.probing import linear_probe
from distill.evaluation.sizes import at_size, check_size
from distill.evaluation.stress import (
    CORRUPTIONS,
    corruption,
    lower_resolution,
    typographic_attack,
    write_on,
    written_class,
)
from distill.evaluation.zero_shot import embed_classes, names_to_choose, zero_shot
from reinforced_data.source import Sample, expand_sources, open_source, scan_shard
from teachers.clip_model import ClipModel, evaluating
from teachers.suggestions import unknown_name

# The rows of class names: a thousand names in eighty templates take longer than the pictures.
RowsOf = Callable[[tuple[str, ...]], Tensor]


@dataclass(frozen=True, kw_only=True)
class Suite:
    """What the tests are asked with.

    Attributes:
        source: shards with labels.
        classes: names to choose from; the source's labels when None.
        templates: prompts with `{}`.
        sentences: more texts for a class.
        severities: of the corruptions, 1 to 5; scores are means over them.
        resolutions: pixels a side; pictures are brought back to the model's size.
        sizes: pixels a side; the image tower runs at them.
        teacher: for agreement.
        probe_train: shards with labels that the linear probe learns from.
        limit: samples of the source.
    """

    source: str
    classes: Sequence[str] | None = None
    templates: Sequence[str] = ("{}",)
    sentences: Mapping[str, Sequence[str]] | None = None
    severities: Sequence[int] = (3,)
    resolutions: Sequence[int] = ()
    sizes: Sequence[int] = ()
    teacher: ClipModel | None = None
    probe_train: str | None = None
    limit: int | None = None


def run_suite(model: ClipModel, suite: Suite, tests: Sequence[str]) -> dict[str, float]:
    """Run tests by name and return their scores, all fractions.

    Args:
        model: a teacher or a student.
        suite: what they are asked with.
        tests: names in `TESTS`.

    Raises:
        ValueError: an unknown test, one that lacks what it needs, or see `evaluate`.
    """
    check_suite(model, suite, tests)

    @cache
    def rows_of(names: tuple[str, ...]) -> Tensor:
        with evaluating(model), torch.no_grad():
            rows = embed_classes(model, names, suite.templates, sentences=suite.sentences)
        check_finite(rows, model, "class names")
        return rows

    scores: dict[str, float] = {}
    for name in tests:
        scores |= TESTS[name](model, suite, rows_of)
    return scores


def check_suite(model: ClipModel, suite: Suite, tests: Sequence[str]) -> None:
    """Refuse, before the first pass, what a test would refuse after the passes of others.

    Raises:
        ValueError: an unknown test, one that lacks what it needs, or a severity, resolution, size
            or source to learn from that there is not.
    """
    for name in tests:
        if name not in TESTS:
            raise unknown_name("test", name, TESTS)
    _check_needs(suite, tests)
    if "corruptions" in tests:
        for severity in suite.severities:
            corruption(next(iter(CORRUPTIONS)), severity)
    if "resolutions" in tests:
        for size in suite.resolutions:
            lower_resolution(size)
    if "sizes" in tests:
        for size in suite.sizes:
            check_size(model, size)
    if "probe" in tests:
        open_source(suite.probe_train or "")


def _check_needs(suite: Suite, tests: Sequence[str]) -> None:
    needs = {
        "agreement": (suite.teacher, "a teacher to agree with (--against MODEL)"),
        "probe": (suite.probe_train, "shards to learn from (--probe-train SHARDS)"),
        "resolutions": (suite.resolutions, "sizes in pixels (--resolutions 64 128)"),
        "sizes": (suite.sizes, "sizes in pixels (--sizes 128 160 224)"),
        "corruptions": (suite.severities, "severities from 1 to 5 (--severities 3)"),
    }
    for name in tests:
        given, what = needs.get(name, (True, ""))
        if not given:
            raise ValueError(f"the test {name!r} needs {what}")


def _top1(
    model: ClipModel,
    suite: Suite,
    rows_of: RowsOf,
    change: Change | None,
    source: AnySource | None = None,
) -> float:
    """Return the accuracy on changed pictures, of the suite's source unless another is given."""
    limit = suite.limit if source is None else None
    found = embed_source(model, source or suite.source, limit=limit, change=change)
    images, labels, names = _to_classify(found, suite, "zero_shot")
    return zero_shot(images, labels, names, rows_of(names))["top1"]


def _to_classify(
    found: Embedded, suite: Suite, task: str
) -> tuple[Tensor, list[str], tuple[str, ...]]:
    """Return the rows that have a label, their labels, and the names to choose from."""
    images, labels = found.labelled(task)
    return images, labels, tuple(names_to_choose(labels, suite.classes, found.source))


def _corruptions(model: ClipModel, suite: Suite, rows_of: RowsOf) -> dict[str, float]:
    scores = {}
    for name in CORRUPTIONS:
        changes = [corruption(name, level) for level in suite.severities]
        found = [_top1(model, suite, rows_of, change) for change in changes]
        scores[f"corrupted/{name}/top1"] = sum(found) / len(found)
    return scores | {"corrupted/top1": sum(scores.values()) / len(scores)}


def _resolutions(model: ClipModel, suite: Suite, rows_of: RowsOf) -> dict[str, float]:
    return {
        f"resolution/{size}/top1": _top1(model, suite, rows_of, lower_resolution(size))
        for size in suite.resolutions
    }


def _sizes(model: ClipModel, suite: Suite, rows_of: RowsOf) -> dict[str, float]:
    scores = {}
    for size in suite.sizes:
        with at_size(model, size):
            scores[f"size/{size}/top1"] = _top1(model, suite, rows_of, None)
    return scores


def _typographic(model: ClipModel, suite: Suite, rows_of: RowsOf) -> dict[str, float]:
    """Accuracy with another class's name on the picture, and how often that name is believed."""
    labels = class_names(suite.source, suite.limit)
    if not labels:
        raise no_labels(suite.source, "typographic")
    names = names_to_choose(labels, suite.classes, suite.source)

    def renamed() -> Iterator[Sample]:
        # Limited here, so that both scores are of the same samples: some have no label.
        for sample in first(open_source(suite.source), suite.limit):
            if sample.label is not None:
                yield replace(sample, label=written_class(sample, names))

    among = replace(suite, classes=names)
    fooled = _top1(
        model,
        among,
        rows_of,
        lambda pixels, sample: write_on(pixels, str(sample.label), sample.key),
        renamed(),
    )
    top1 = _top1(model, among, rows_of, typographic_attack(names))
    return {"typographic/top1": top1, "typographic/fooled": fooled}


def class_names(source: str, limit: int | None = None) -> list[str]:
    """Return the labels of a source, or of its first `limit` samples, sorted."""
    shards = (scan_shard(shard, with_images=False) for shard in expand_sources(source))
    usable = (sample for sample in chain.from_iterable(shards) if sample.problem is None)
    labels = {sample.label for sample in first(usable, limit)}
    return sorted(label for label in labels if label is not None)


def _calibration(model: ClipModel, suite: Suite, rows_of: RowsOf) -> dict[str, float]:
    found = embed_source(model, suite.source, limit=suite.limit)
    images, labels, names = _to_classify(found, suite, "calibration")
    rows = rows_of(names)
    with evaluating(model), torch.no_grad():
        scale = model.with_head(images, rows).logit_scale
    return calibration(images, labels, names, rows, float(scale))


def _agreement(model: ClipModel, suite: Suite, _: RowsOf) -> dict[str, float]:
    assert suite.teacher is not None
    return agreement(
        model,
        suite.teacher,
        suite.source,
        classes=suite.classes,
        templates=suite.templates,
        sentences=suite.sentences,
        limit=suite.limit,
    )


def _probe(model: ClipModel, suite: Suite, _: RowsOf) -> dict[str, float]:
    assert suite.probe_train is not None
    return linear_probe(model, suite.probe_train, suite.source, limit=suite.limit)


TESTS: dict[str, Callable[[ClipModel, Suite, RowsOf], dict[str, float]]] = {
    "corruptions": _corruptions,
    "typographic": _typographic,
    "resolutions": _resolutions,
    "sizes": _sizes,
    "calibration": _calibration,
    "agreement": _agreement,
    "probe": _probe,
}
