"""What a data-health page shows. Plain values; an empty part is left out of it."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

Place = tuple[int, int]
"""Shard and row."""


@dataclass(frozen=True, kw_only=True)
class ColumnFacts:
    """One line of the table of columns."""

    name: str
    kind: str
    model: str
    codec: str
    hangs_on: str
    shards: int
    rows: int
    null_rows: int
    bytes: int


@dataclass(frozen=True, kw_only=True)
class SkippedReason:
    """A reason, how often, and where the first few are."""

    reason: str
    count: int
    examples: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class Histogram:
    """Values of the sampled rows, by what they are of."""

    title: str
    unit: str
    values: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A picture of the source with a caption; `note` is a number beside it."""

    place: Place
    key: str
    image: bytes
    caption: str
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class CaptionSet:
    """One caption set, as far as it was sampled.

    Attributes:
        texts: how many.
        repeated: the share of texts that another sample has as well.
        frequent: the most frequent ones and how often they come.
    """

    name: str
    texts: int
    repeated: float
    words: Histogram
    per_sample: Histogram
    frequent: Sequence[tuple[str, int]]


@dataclass(frozen=True, kw_only=True)
class TeacherFacts:
    """One teacher's embeddings, as far as they were sampled.

    Attributes:
        name: the teacher's, with the view set where there are several.
        scores: cosine of picture and caption; empty without texts.
        written: the same with each written caption set that the teacher has embedded.
        norms: of the image rows before they were normalised.
        nearest: cosine of each picture to its nearest other one.
        lowest: the pictures that fit their captions least.
        highest: those that fit best.
        twins: pairs that are nearest to each other, most alike first.
        neighbours: some pictures, each with its nearest ones.
    """

    name: str
    scores: Histogram | None
    norms: Histogram
    nearest: Histogram
    written: Sequence[Histogram] = ()
    lowest: Sequence[Shown] = ()
    highest: Sequence[Shown] = ()
    twins: Sequence[tuple[Shown, Shown]] = ()
    neighbours: Sequence[tuple[Shown, Sequence[Shown]]] = ()


@dataclass(frozen=True, kw_only=True)
class HealthData:
    """Everything on the page.

    Attributes:
        sampled: how many samples the pictures, captions and embeddings below are of.
        findings: kind and text of what the audit found.
    """

    store: str
    command: str
    samples: int
    usable: int
    bytes: int
    shards: int
    sampled: int
    findings: Sequence[tuple[str, str]]
    notes: Sequence[str]
    columns: Sequence[ColumnFacts]
    skipped: Sequence[SkippedReason]
    pictures: Sequence[Histogram] = ()
    scores: Sequence[Histogram] = ()
    captions: Sequence[CaptionSet] = ()
    teachers: Sequence[TeacherFacts] = ()
    versions: dict[str, str] = field(default_factory=dict)
