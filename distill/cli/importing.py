"""`distill import`: a reinforced data set that somebody has published, as a store."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Literal

import tyro
from rich.console import Console

from distill.cli.data import QUARANTINED, how_much, print_skipped
from distill.cli.outcome import Outcome
from distill.cli.parsing import parse
from reinforced_data.codecs.names import DEFAULT_CODEC


@dataclass(frozen=True, kw_only=True)
class Import:
    """Make a reinforced dataset of Apple's DataCompDR and your pictures. The same command resumes.

    Attributes:
        source: your shards of pictures and captions, joined by the uid in their JSON, else by key.
        out: the reinforced dataset's folder, or any fsspec URL.
        datacompdr: the published shards (syn.json, paug.json, npz or pth.gz); the same as source
            where both were put together.
        num_views: how many of the published views to take.
        codec: how embeddings are stored.
        crops_of: the picture whose pixels the published crops count: that in source, or the
            original before it was downsized (original_width and original_height in the JSON).
        captions_from: the member or JSON field that holds the original captions.
        teachers: load these, in the order of the published rows, so that audit can embed again.
    """

    source: Annotated[str, tyro.conf.Positional]
    out: Annotated[str, tyro.conf.Positional]
    datacompdr: str
    num_views: int = 10
    codec: Literal["float32", "float16", "bfloat16", "int8", "int4"] = DEFAULT_CODEC
    crops_of: Literal["picture", "original"] = "picture"
    captions_from: str | None = None
    teachers: tuple[str, ...] = ()


def run(arguments: Sequence[str], console: Console) -> Outcome:
    """Import, print the counts; exit code 3 when a sample lacks something."""
    asked = parse(Import, "import", arguments)
    from distill.model_loading import load_frozen
    from reinforced_data import import_datacompdr
    from reinforced_data.datacompdr.importing import DATACOMPDR

    report = import_datacompdr(
        asked.source,
        asked.datacompdr,
        asked.out,
        num_views=asked.num_views,
        codec=asked.codec,
        crops_of=asked.crops_of,
        captions_from=asked.captions_from,
        teachers=[load_frozen(spec) for spec in asked.teachers] or DATACOMPDR,
        progress=not console.quiet,
    )
    console.print(f"{how_much(report)} in {report.seconds:.1f} s: {asked.out}")
    if report.shards > report.shards_already_done:
        console.print(
            f"  {report.same_bytes:,} pictures are byte for byte the published ones; of the others "
            "`distill audit --teachers` tells whether the published rows are theirs"
        )
    print_skipped(report.skipped, console, report.examples)
    for shard, reason in report.failed.items():
        console.print(f"  not read: {shard}: {reason}", style="red")
    code = QUARANTINED if report.skipped or report.failed else 0
    return Outcome(values=asdict(report), exit_code=code)
