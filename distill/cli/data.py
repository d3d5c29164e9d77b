"""`distill reinforce`: stage 1 from the command line."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from rich.console import Console

from distill.cli.launcher_arguments import LauncherArguments
from distill.cli.outcome import Outcome
from distill.cli.parsing import hint_at_gpu, parse
from reinforced_data.codecs.names import DEFAULT_CODEC, CodecName
from reinforced_data.view_policy import ViewPolicy

if TYPE_CHECKING:
    from distill.launching import Reinforcement
    from reinforced_data import CaptionReport, ImportReport, ReinforceReport

QUARANTINED = 3
"""The exit code of what was done, but not with everything."""


@dataclass(frozen=True, kw_only=True)
class Reinforce:
    """Write the teachers' knowledge of a source down, once. The same command resumes.

    Attributes:
        source: shards: a folder, a glob, or a quoted brace pattern such as cc3m/{0000..0331}.tar.
        out: the reinforced dataset's folder, or any fsspec URL.
        teachers: student folders, open_clip name/tag, hf-hub:ID or local folders; none writes the
            views alone, which undistilled training reads.
        precision: of the teachers' weights.
        view_set: the view set's name; a finished store takes further sets under other names.
        num_views: views per picture.
        policy: what views are drawn from.
        codec: how embeddings are stored.
        seed: of the views.
        captions_from: the member or JSON field that holds the captions.
        batch_size: views, or texts, per call of a teacher.
        attention: of the teachers, the one whose attention to patches is kept too, for students
            that drop patches (docs/tokens.md); also beside embeddings that are there already.
        device: where the teachers run; of several processes on a machine, each takes its own cuda.
        retry_quarantined: try shards again at which three workers died.
    """

    source: Annotated[str, tyro.conf.Positional]
    out: Annotated[str, tyro.conf.Positional]
    teachers: tuple[str, ...] = ()
    precision: Literal["fp32", "bf16", "int8", "nf4"] = "fp32"
    view_set: str = "default"
    num_views: int = 10
    policy: ViewPolicy = field(default_factory=ViewPolicy)
    codec: CodecName = DEFAULT_CODEC
    seed: int = 0
    captions_from: str | None = None
    batch_size: int = 256
    attention: str | None = None
    device: str = "cpu"
    retry_quarantined: bool = False
    by: Annotated[LauncherArguments, tyro.conf.arg(name="")] = field(
        default_factory=LauncherArguments
    )


def run_reinforce(arguments: Sequence[str], console: Console) -> Outcome:
    """Load the teachers, write, print the counts."""
    asked = parse(Reinforce, "reinforce", arguments)
    if asked.teachers:
        hint_at_gpu(asked.device, console)
    report = asked.by.launch(
        _reinforcement(asked),
        retry_quarantined=asked.retry_quarantined,
        progress=not console.quiet,
    )
    console.print(f"{how_much(report)} in {report.seconds:.1f} s: {asked.out}")
    print_skipped(report.skipped, console, report.examples)
    for source, reason in report.failed.items():
        console.print(f"  not read: {source}: {reason}", style="red")
    for reason in report.quarantined.values():
        console.print(f"  {reason}", style="red", markup=False)
    left_out = report.skipped or report.failed or report.quarantined
    return Outcome(values=asdict(report), exit_code=QUARANTINED if left_out else 0)


def how_much(report: "ReinforceReport | CaptionReport | ImportReport") -> str:
    """Word what is in the store; of a large one, what is in the shards that this call wrote."""
    found, before = (
        f"{report.samples:,} samples",
        f"{report.shards_already_done:,} were done before",
    )
    size = f"{report.bytes / 1e6:,.1f} MB"
    if report.counted_shards == report.shards:
        return f"{found} in {report.shards:,} shards ({before}), {size}"
    return (
        f"{found} in {report.counted_shards:,} shards that this call wrote, {size}; done are "
        f"{report.shards:,} shards ({before}; distill status counts them all)"
    )


def _reinforcement(asked: Reinforce) -> "Reinforcement":
    from distill.launching import Reinforcement
    from reinforced_data.reinforce_work import ReinforceSettings

    return Reinforcement(
        source=asked.source,
        out=asked.out,
        teachers=asked.teachers,
        precision=asked.precision,
        device=asked.device,
        settings=ReinforceSettings(
            view_set=asked.view_set,
            num_views=asked.num_views,
            policy=asked.policy,
            codec=asked.codec,
            seed=asked.seed,
            captions_from=asked.captions_from,
            batch_size=asked.batch_size,
            attention=asked.attention,
        ),
    )


def print_skipped(
    skipped: Mapping[str, int],
    console: Console,
    examples: Mapping[str, Sequence[str]] = {},
) -> None:
    """Print why samples were left out, and the first few of each reason."""
    for reason, count in skipped.items():
        named = examples.get(reason, ())
        more = [f"and {count - len(named)} more"] if named and count > len(named) else []
        where = f": {', '.join([*named, *more])}" if named else ""
        console.print(f"  left out: {count:,} x {reason}{where}", style="yellow", markup=False)
