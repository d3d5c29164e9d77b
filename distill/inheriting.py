"""Where students meet stores: inheritance with a donor measured on data, for runs and the command.

`students.inherit` takes plain batches; here they are read from shards, or from a store's sources.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from distill.samples import real_samples
from reinforced_data.store.layout import open_store
from reinforced_data.store.storage import Storage
from students import InheritancePlan, plan_inheritance
from students.inheritance.selectors import MEASURED
from students.masks import read_masks
from students.student import Student
from teachers import ClipModel

# Scores settle within a few hundred pictures.
SAMPLES = 256
BATCH = 32


def plan_from_data(
    student: Student,
    donor: ClipModel,
    *,
    selector: str,
    depth: str,
    towers: tuple[str, ...] = ("image", "text"),
    data: str | None = None,
    folder: str = "",
) -> InheritancePlan:
    """Plan with plain names; what measures the donor reads `data`, a source or a store.

    "magnitude" chooses without data; given some, it is for the gains of LayerNorms.
    "learned" reads what masks learned from the donor's `folder`.

    Raises:
        ValueError: when a selector needs data and there is none, or as `plan_inheritance`.
    """
    measured = selector in MEASURED or depth == "similarity"
    if measured and data is None:
        raise ValueError(
            f"{selector if selector in MEASURED else depth} measures the donor on pictures and "
            "captions: say where they are (--data SHARDS or STORE)"
        )
    reads = measured or selector == "magnitude"
    batches = list(donor_batches(donor, data)) if reads and data is not None else None
    how = read_masks(folder) if selector == "learned" else selector
    return plan_inheritance(
        student, donor, selector=how, depth=depth, towers=towers, batches=batches
    )


def donor_batches(donor: ClipModel, data: str) -> Iterator[tuple[Tensor, Tensor]]:
    """Read the first pictures and captions of a source, or of a store's sources, for the donor."""
    source = open_store(data).sources if Storage(data).exists("sources.json") else data
    samples = real_samples(source, SAMPLES)
    for start in range(0, len(samples), BATCH):
        part = samples[start : start + BATCH]
        with torch.no_grad():
            pixels = donor.to_pixels([picture for picture, _ in part])
        yield pixels, donor.tokenizer([caption for _, caption in part]).to(donor.device)
