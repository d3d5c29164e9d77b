"""`distill caption`: add a set of written captions to a reinforced dataset, or embed one."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from rich.console import Console

from distill.cli.data import QUARANTINED, how_much, print_skipped
from distill.cli.launcher_arguments import LauncherArguments
from distill.cli.outcome import Outcome
from distill.cli.parsing import parse
from teachers.captioners.settings import CaptionerSettings

if TYPE_CHECKING:
    from distill.launching import Captioning
    from reinforced_data import CaptionReport


@dataclass(frozen=True, kw_only=True)
class Caption:
    """Write captions for a reinforced dataset's samples, as a set beside the original ones.

    The same command resumes. What the source and the teachers have written is not touched; with
    --teachers their text rows for the set are added, which training on it with them needs. Without
    a captioner a set that is there is only embedded.

    Attributes:
        store: the reinforced dataset's folder, or any fsspec URL.
        name: the set's; training names it so.
        captioner: who writes: see distill list captioners.
        num_captions: asked for per sample.
        seed: of the captions.
        min_words: shorter captions are dropped; 1 for languages written without spaces.
        max_words: longer ones are dropped.
        min_score: drop captions whose mean cosine with the sample's stored views is lower.
        score_teacher: whose cosine; a teacher of this store.
        teachers: of this store, whose text rows for the set are written.
        teacher_precision: of the teachers' weights, as it was in distill reinforce.
        teacher_device: where teachers run. Of several processes on a machine each takes its own
            cuda, for the captioner (--device) too.
        batch_size: samples per call of the captioner, and texts per call of a teacher.
        retry_quarantined: try shards again at which three workers died.
    """

    store: Annotated[str, tyro.conf.Positional]
    name: str
    captioner: str | None = None
    num_captions: int = 5
    seed: int = 0
    min_words: int = 2
    max_words: int | None = None
    min_score: float | None = None
    score_teacher: str | None = None
    teachers: tuple[str, ...] = ()
    teacher_precision: Literal["fp32", "bf16", "int8", "nf4"] = "fp32"
    teacher_device: str = "cpu"
    batch_size: int = 32
    retry_quarantined: bool = False
    settings: Annotated[CaptionerSettings, tyro.conf.arg(name="")] = field(
        default_factory=CaptionerSettings
    )
    by: Annotated[LauncherArguments, tyro.conf.arg(name="")] = field(
        default_factory=LauncherArguments
    )


def run(arguments: Sequence[str], console: Console) -> Outcome:
    """Write captions, print the counts; exit code 3 when something is left."""
    asked = parse(Caption, "caption", arguments)
    report = asked.by.launch(
        _captioning(asked),
        retry_quarantined=asked.retry_quarantined,
        progress=not console.quiet,
    )
    _print(report, asked.store, console)
    incomplete = report.skipped or report.failed or report.waiting or report.quarantined
    return Outcome(values=asdict(report), exit_code=QUARANTINED if incomplete else 0)


def _captioning(asked: Caption) -> "Captioning":
    from distill.launching import Captioning
    from reinforced_data.captions.filters import LengthBounds
    from reinforced_data.captions.settings import CaptionSettings

    given = [name for name, value in asdict(asked.settings).items() if value is not None]
    if given and asked.captioner is None:
        raise ValueError(
            f"{', '.join(given)} say how a captioner writes, and none is given: --captioner SPEC "
            "(distill list captioners)"
        )
    return Captioning(
        out=asked.store,
        captioner=asked.captioner,
        captioner_settings=asked.settings,
        score_teacher=asked.score_teacher,
        teachers=asked.teachers,
        precision=asked.teacher_precision,
        teacher_device=asked.teacher_device,
        settings=CaptionSettings(
            name=asked.name,
            num_captions=asked.num_captions,
            seed=asked.seed,
            bounds=LengthBounds(min_words=asked.min_words, max_words=asked.max_words),
            min_score=asked.min_score,
            batch_size=asked.batch_size,
        ),
    )


def _print(report: "CaptionReport", store: str, console: Console) -> None:
    console.print(
        f"{how_much(report)}, {report.written:,} captions written in {report.seconds:.1f} s: "
        f"caption set {report.caption_set} of {store}"
    )
    for reason, count in report.dropped.items():
        console.print(f"  texts dropped: {count:,} x {reason}", style="yellow", markup=False)
    for reason, count in report.retries.items():
        console.print(f"  asked again: {count:,} x {reason}", style="yellow", markup=False)
    print_skipped(report.skipped, console, report.examples)
    for source, reason in report.failed.items():
        console.print(f"  not read: {source}: {reason}", style="red", markup=False)
    for reason in report.quarantined.values():
        console.print(f"  {reason}", style="red", markup=False)
    if report.waiting:
        console.print(
            f"  waiting: {report.waiting:,} shards that distill reinforce has not finished; then "
            "give the same command again",
            style="yellow",
        )
