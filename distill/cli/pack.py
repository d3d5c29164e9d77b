"""`distill pack`: whatever holds pictures and texts, as WebDataset shards."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Literal

import tyro
from rich.console import Console

from distill.cli.data import QUARANTINED, print_skipped
from distill.cli.outcome import Outcome
from distill.cli.parsing import parse


@dataclass(frozen=True, kw_only=True)
class Pack:
    """Make WebDataset shards from pictures and their texts. The same command resumes.

    Attributes:
        input: a folder of pictures with .txt files beside them, a folder of class folders, a CSV,
            TSV, JSONL or Parquet table (or a folder of Parquet files) of captions and paths or
            pictures, a Hugging Face dataset on disk, or what img2dataset has downloaded. Here, not
            at a URL.
        out: a new or empty folder of this machine.
        layout: what the input is; auto looks.
        split: of a Hugging Face dataset that has several.
        captions: the column of captions; of img2dataset's tars json:FIELD or an extension.
        images: the column of paths or pictures.
        labels: the column of labels, which are taken as the classes' names.
        class_names: what labels that are numbers or ids are called: a text file of one name a line
            (label 0 is the first), a .json object of labels and names, or imagenet, for the numbers
            0 to 999 and WordNet ids.
        root: where relative paths start; by default beside the table.
        template: the caption of a picture that has a class and no column of captions.
        samples_per_shard: pictures in each shard.
        resize: none, or what larger pictures are shrunk to, such as shorter:512 or longer:512;
            what is small enough keeps its bytes.
        quality: of the JPEGs that shrinking makes.
        max_pixels: larger pictures are left out.
        deduplicate: of pictures with equal bytes, drop all but the first, or merge their captions
            into it (which reads the input twice).
        verify: decode every picture now instead of reading headers alone.
    """

    input: Annotated[str, tyro.conf.Positional]
    out: Annotated[str, tyro.conf.Positional]
    layout: Literal["auto", "folder", "classes", "table", "huggingface", "img2dataset"] = "auto"
    split: str | None = None
    captions: str | None = None
    images: str | None = None
    labels: str | None = None
    class_names: str | None = None
    root: str | None = None
    template: str = "a photo of a {}"
    samples_per_shard: int = 1000
    resize: str = "none"
    quality: int = 95
    max_pixels: int = 1 << 26
    deduplicate: Literal["none", "drop", "merge"] = "none"
    verify: bool = False


def run(arguments: Sequence[str], console: Console) -> Outcome:
    """Pack and print the counts; exit code 3 when something was left out."""
    asked = parse(Pack, "pack", arguments)
    from reinforced_data import pack

    report = pack(**vars(asked), progress=not console.quiet)
    console.print(
        f"{report.samples:,} pictures in {report.shards} shards in {report.out}, from "
        f"{report.rows:,} rows ({report.layout})"
    )
    if report.copies:
        done = "dropped" if asked.deduplicate == "drop" else "merged"
        console.print(f"  {report.copies:,} copies of pictures {done}")
    if report.shrunk:
        console.print(f"  {report.shrunk:,} pictures shrunk to {asked.resize}")
    print_skipped(report.skipped, console, report.examples)
    return Outcome(values=asdict(report), exit_code=QUARANTINED if report.skipped else 0)
