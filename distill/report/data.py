"""What a report shows. Plain values, so that any recipe can fill them; no torch in here."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from markupsafe import Markup

from distill.report.ladder import Ladder

Role = Literal["teacher", "student"]
# How a row is told apart in words, colour and shape: a teacher, or one of three students.
Kind = Literal["teacher", "distilled", "control", "undistilled"]
Number = float | int


@dataclass(frozen=True, kw_only=True)
class Row:
    """One model and its scores.

    Attributes:
        name: the model's folder; a `Curve` of the same name gets the same colour.
        image_params, text_params: 0 where they are not known.
        steps: 0 of a model that was not trained here.
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
class TowerCost:
    """What one tower costs in one form; None where it was not measured.

    Attributes:
        bytes: of the file, or of the weights.
        latency_ms, latency_p95_ms: of one picture or text; median and 95th percentile.
        memory_bytes: the most that a process with it held.
    """

    bytes: int
    latency_ms: Number | None = None
    latency_p95_ms: Number | None = None
    memory_bytes: int | None = None


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A row's model in one form: what its towers cost, and what it scores in that form.

    Attributes:
        name: the `Row`'s.
        form: "onnx int8", "torch on cpu".
        image, text: the towers; None where one was not measured.
        rounded: whether its numbers are not the model's, so that the row's scores are not its own.
        metric: what `score` is, as "top1"; empty where the form itself was not evaluated.
        score: of the form, on data of the export's choice.
        score_of_model: of the model, on the same.
    """

    name: str
    form: str
    image: TowerCost | None = None
    text: TowerCost | None = None
    rounded: bool = False
    metric: str = ""
    score: Number | None = None
    score_of_model: Number | None = None


@dataclass(frozen=True, kw_only=True)
class Beyond:
    """What a row's model was asked on one split beside its plain scores.

    Attributes:
        name: the `Row`'s.
        split: empty where it has no name.
        scores: test -> fraction, by `distill evaluate`'s names: "ece", "corrupted/top1".
        leaks: pictures of the split that are in the training shards; None where nobody looked.
        near_leaks: more that nearly are.
    """

    name: str
    split: str
    scores: Mapping[str, Number]
    leaks: int | None = None
    near_leaks: int | None = None


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step of the way from the source to a file: what it is, which one, and what is known."""

    what: str
    which: str
    facts: Mapping[str, str] = field(default_factory=dict)


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

    `model` is shown when a report holds cases of several models; `rank` is the place of the first
    hit, from 1, among all `among` images (0: not said).
    """

    query_text: str
    images: Sequence[tuple[bytes, str, bool]]
    model: str = ""
    rank: int = 0
    among: int = 0


@dataclass(frozen=True, kw_only=True)
class ImageToTextCase:
    """An image and the texts a model ranked first: (text, is it a hit); as `RetrievalCase`."""

    image: bytes
    texts: Sequence[tuple[str, bool]]
    caption: str = ""
    model: str = ""
    rank: int = 0
    among: int = 0


@dataclass(frozen=True)
class Confusion:
    """`count` of the `total` samples of class `label` are taken for `chosen`.

    `cosine`: of the texts of the two classes.
    """

    label: str
    chosen: str
    count: int
    total: int
    cosine: Number | None = None


@dataclass(frozen=True, kw_only=True)
class ConfusionMatrix:
    """Of the classes that are taken for each other most: `shares[i][j]` of class i go to j."""

    classes: Sequence[str]
    shares: Sequence[Sequence[Number]]


@dataclass(frozen=True, kw_only=True)
class ReportData:
    """Everything on the page; an empty part is left out of it.

    Attributes:
        reference: name of the teacher that retention is relative to; empty: the one with the most
            image parameters.
        subject: name of the distilled student that the headline speaks of; empty: the best one.
        timings: stage -> seconds, in order.
        lineage: from the source to the exported files, in order.
        skipped: reason -> count of samples left out.
        health: the sections of the data-health page, escaped by its own template.
        missing: (what, why and how it gets there) for what this page could show and does not.
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
    confusion_matrix: ConfusionMatrix | None = None
    ladders: Sequence[Ladder] = ()
    measured: Sequence[Measured] = ()
    beyond: Sequence[Beyond] = ()
    health: Markup | None = None
    missing: Sequence[tuple[str, str]] = ()
    lineage: Sequence[Step] = ()
    timings: Mapping[str, Number] = field(default_factory=dict)
    notes: Sequence[str] = ()
    skipped: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse a reference that is no teacher of this report."""
        teachers = [row.name for row in self.rows if row.role == "teacher"]
        if self.reference and self.reference not in teachers:
            raise ValueError(f"reference {self.reference!r} is not among the teachers {teachers}")
