"""What a report shows. Plain values, so that any recipe can fill them; no torch in here."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

Role = Literal["teacher", "student"]
# How a row is told apart in words, colour and shape: a teacher, or one of three students.
Kind = Literal["teacher", "distilled", "control", "undistilled"]
Number = float | int


@dataclass(frozen=True, kw_only=True)
class Row:
    """One model and its scores.

    Attributes:
        name: the model's folder; a `Curve` of the same name gets the same colour.
        control: an undistilled student that was given a part of the teacher all the same (the
            honest control); shown as such.
        metrics: `split/metric` -> fraction, as `unseen_pairs/top1`.
        retention: student metric / teacher metric, same keys; None for a teacher.
        note: a few words for the table, as "the larger teacher".
    """

    name: str
    role: Role
    image_params: int
    text_params: int
    steps: int
    metrics: Mapping[str, Number]
    distilled: bool = False
    control: bool = False
    retention: Mapping[str, Number | None] | None = None
    note: str = ""

    def __post_init__(self) -> None:
        """Refuse what cannot be: a distilled teacher, a distilled control."""
        if self.distilled and (self.control or self.role == "teacher"):
            other = "a control" if self.control else "a teacher"
            raise ValueError(f"report row {self.name!r} is distilled and {other} at once")

    @property
    def kind(self) -> Kind:
        """Teacher, distilled, control or undistilled."""
        if self.role == "teacher":
            return "teacher"
        if self.distilled:
            return "distilled"
        return "control" if self.control else "undistilled"


@dataclass(frozen=True, kw_only=True)
class ExportedFile:
    """One exported file; None where a number was not measured."""

    format: str
    tower: str
    path: str
    bytes: int
    relative_error: Number | None = None
    latency_ms: Number | None = None


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One line of a chart; the curves of one `series` ("loss", "top1", ...) share a chart."""

    name: str
    series: str
    steps: Sequence[int]
    values: Sequence[Number]
    role: Role = "student"

    def __post_init__(self) -> None:
        """Refuse steps and values of different lengths."""
        if len(self.steps) != len(self.values):
            raise ValueError(
                f"curve {self.name!r} ({self.series}): {len(self.steps)} steps and"
                f" {len(self.values)} values"
            )


@dataclass(frozen=True, kw_only=True)
class RetrievalCase:
    """A text and the images a model ranked first: (PNG, JPEG or WebP bytes, caption, is it a hit).

    `model` is shown when a report holds cases of several models.
    """

    query_text: str
    images: Sequence[tuple[bytes, str, bool]]
    model: str = ""


@dataclass(frozen=True, kw_only=True)
class ImageToTextCase:
    """An image and the texts a model ranked first: (text, is it a hit)."""

    image: bytes
    texts: Sequence[tuple[str, bool]]
    caption: str = ""
    model: str = ""


@dataclass(frozen=True)
class Confusion:
    """`count` of the `total` samples of class `label` are taken for `chosen`."""

    label: str
    chosen: str
    count: int
    total: int


@dataclass(frozen=True, kw_only=True)
class ReportData:
    """Everything on the page; an empty part is left out of it.

    Attributes:
        reference: name of the teacher that retention is relative to; empty: the one with the most
            image parameters.
        subject: name of the distilled student that the headline speaks of; empty: the best one.
        timings: stage -> seconds, in order.
        lineage: (what, which one) from the source to the exported file, in order.
        skipped: reason -> count of samples left out.
    """

    title: str
    rows: Sequence[Row]
    subtitle: str = ""
    command: str = ""
    reference: str = ""
    subject: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    exports: Sequence[ExportedFile] = ()
    curves: Sequence[Curve] = ()
    retrieval: Sequence[RetrievalCase | ImageToTextCase] = ()
    confusions: Sequence[Confusion] = ()
    lineage: Sequence[tuple[str, str]] = ()
    timings: Mapping[str, Number] = field(default_factory=dict)
    notes: Sequence[str] = ()
    skipped: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse a reference that is no teacher of this report."""
        teachers = [row.name for row in self.rows if row.role == "teacher"]
        if self.reference and self.reference not in teachers:
            raise ValueError(f"reference {self.reference!r} is not among the teachers {teachers}")
