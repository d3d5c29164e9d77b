"""`distill score`: add one number a sample to a reinforced dataset."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from rich.console import Console

from distill.cli.data import QUARANTINED, print_skipped
from distill.cli.outcome import Outcome
from distill.cli.parsing import parse

if TYPE_CHECKING:
    from reinforced_data import ScoreReport


@dataclass(frozen=True, kw_only=True)
class Score:
    """Add one number a sample to a reinforced dataset. The same command resumes.

    The numbers come from a table (--from), or are the cosines of pictures and captions that a
    stored teacher gives (--teacher); neither needs pictures or a model, and nothing else in the
    store is touched.

    Attributes:
        store: the reinforced dataset's folder, or any fsspec URL.
        name: the score's.
        table: a CSV, TSV, JSONL or Parquet table of keys and scores.
        keys: the table's column of sample keys; by default key, __key__ or id.
        scores: the table's column of numbers; by default score or value.
        teacher: of this store, whose mean cosine of views and captions is the score.
        view_set: whose views; by default the only set, or the default one.
    """

    store: Annotated[str, tyro.conf.Positional]
    name: str
    table: Annotated[Path | None, tyro.conf.arg(name="from")] = None
    keys: str | None = None
    scores: str | None = None
    teacher: str | None = None
    view_set: str | None = None


def run(arguments: Sequence[str], console: Console) -> Outcome:
    """Read the table, write, print the counts; exit code 3 when shards or samples are left."""
    asked = parse(Score, "score", arguments)
    if (asked.table is None) == (asked.teacher is None):
        raise ValueError("where do the scores come from? Give --from TABLE or --teacher NAME")
    from reinforced_data import ClipScore, add_scores, read_scores

    if asked.teacher is not None:
        scores = ClipScore(teacher=asked.teacher, view_set=asked.view_set)
    else:
        assert asked.table is not None
        scores = read_scores(asked.table, keys=asked.keys, scores=asked.scores)
    report = add_scores(asked.store, asked.name, scores, progress=not console.quiet)
    spread = "" if report.mean is None else f"mean {report.mean:.4g}, {_range(report)}"
    console.print(
        f"{report.scored:,} of {report.samples:,} samples in {report.shards} shards "
        f"({report.shards_already_done} were done before) have the score {asked.name}: {spread}",
        highlight=False,
    )
    print_skipped(report.skipped, console)
    if report.waiting:
        console.print(
            f"  waiting: {report.waiting:,} shards that distill reinforce has not finished; then "
            "give the same command again",
            style="yellow",
        )
    left = report.skipped or report.waiting
    return Outcome(values=asdict(report), exit_code=QUARANTINED if left else 0)


def _range(report: "ScoreReport") -> str:
    return f"{report.minimum:.4g} to {report.maximum:.4g}"
