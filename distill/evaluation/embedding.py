"""A source's pictures as unit rows, and what belongs to them; pixels are never kept."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from distill.evaluation.label_checks import no_labels
from reinforced_data.source import Sample, Source, UnreadableImage, decode_image, open_source
from teachers.clip_model import ClipModel, evaluating

AnySource = str | Path | Sequence[str | Path] | Iterable[Sample]
Pixels = UInt8[np.ndarray, "size size 3"]
Change = Callable[[Pixels, Sample], Pixels]
"""What is done to a picture at the model's size before the model sees it; called in threads."""


@dataclass(kw_only=True)
class Embedded:
    """What is kept of a source.

    Attributes:
        rows: unit rows, one tensor a batch.
        captions: of each row.
        labels: of each row.
        places: of each row, the number of its sample among those that were read.
        skipped: samples that could not be used.
        source: what messages call the source.
    """

    rows: list[Tensor] = field(default_factory=list)
    captions: list[tuple[str, ...]] = field(default_factory=list)
    labels: list[str | None] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    skipped: int = 0
    source: str = "the source"

    @property
    def images(self) -> Float[Tensor, "n d"]:
        """All rows."""
        return torch.cat(self.rows)

    def labelled(self, task: str = "this") -> tuple[Float[Tensor, "m d"], list[str]]:
        """Return the rows that have a label, and the labels.

        Raises:
            ValueError: there are none, which `task` needs.
        """
        places = [place for place, label in enumerate(self.labels) if label is not None]
        if not places:
            raise no_labels(self.source, task)
        return self.images[places], [label for label in self.labels if label is not None]


def embed_source(
    model: ClipModel,
    source: AnySource,
    *,
    batch_size: int = 256,
    limit: int | None = None,
    captions_from: str | None = None,
    change: Change | None = None,
    on_batch: Callable[[int], None] | None = None,
) -> Embedded:
    """Embed a source's pictures; the model's modes are put back afterwards.

    Args:
        model: a teacher or a student.
        source: see `evaluate`.
        batch_size: images at a time.
        limit: stop after so many samples.
        captions_from: see `open_source`.
        change: done to each picture's pixels at the model's size.
        on_batch: called with the number of samples done.

    Raises:
        ValueError: no sample could be used, rows are not finite, or a limit below 1.
    """
    samples = _samples(source, captions_from)
    with evaluating(model), torch.no_grad():
        found = _embed(model, first(samples, limit), batch_size, change, on_batch)
    found.source = source_name(source)
    if isinstance(samples, Source):
        found.skipped += samples.skipped.total()
    if not found.rows:
        raise ValueError(
            f"no image of {found.source} could be used ({found.skipped} skipped), so "
            f"there is nothing to evaluate {model.name} on"
        )
    check_finite(found.images, model, "images")
    return found


def first(samples: Iterable[Sample], limit: int | None) -> Iterator[Sample]:
    """Return the first `limit` samples, or all.

    Raises:
        ValueError: a limit below 1.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"a limit must be at least 1 sample, got {limit}; leave it out for all")
    return islice(samples, limit)


def source_name(source: object) -> str:
    """What messages call a source."""
    return str(source) if isinstance(source, str | Path) else type(source).__name__


def check_finite(rows: Tensor, model: ClipModel, what: str) -> None:
    """Raise a ValueError where rows hold nan or inf."""
    bad = int((~rows.isfinite().all(1)).sum())
    if bad:
        raise ValueError(
            f"{model.name} gave embeddings with nan or inf for {bad} of {len(rows)} {what}; its "
            "training has probably diverged, or its precision overflows"
        )


def _samples(source: AnySource, captions_from: str | None) -> Iterable[Sample]:
    if isinstance(source, str | Path):
        return open_source(source, captions_from=captions_from)
    if isinstance(source, Sequence) and all(isinstance(item, str | Path) for item in source):
        return open_source([str(item) for item in source], captions_from=captions_from)
    return source  # type: ignore[return-value]


def _embed(
    model: ClipModel,
    samples: Iterator[Sample],
    batch_size: int,
    change: Change | None,
    on_batch: Callable[[int], None] | None,
) -> Embedded:
    """Decode in threads (decoders release the lock) and embed batch by batch."""
    found = Embedded()

    def view(sample: Sample) -> np.ndarray | None:
        try:
            pixels = model.preprocess.whole_view(decode_image(sample.image))
        except UnreadableImage:
            return None
        return pixels if change is None else change(pixels, sample)

    with ThreadPoolExecutor(4) as pool:
        while batch := list(islice(samples, batch_size)):
            views = zip(batch, pool.map(view, batch), strict=True)
            usable = [
                (place, sample, pixels)
                for place, (sample, pixels) in enumerate(views, len(found.labels) + found.skipped)
                if pixels is not None
            ]
            found.skipped += len(batch) - len(usable)
            if usable:
                pixels = torch.from_numpy(np.stack([pixels for *_, pixels in usable]))
                pixels = model.preprocess.normalize(pixels.to(model.device))
                found.rows.append(model.encode_image(pixels))
            found.places += [place for place, *_ in usable]
            found.captions += [sample.captions for _, sample, _ in usable]
            found.labels += [sample.label for _, sample, _ in usable]
            if on_batch is not None:
                on_batch(len(found.labels) + found.skipped)
    return found
