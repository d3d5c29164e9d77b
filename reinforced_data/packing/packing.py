"""Pictures with texts, in whatever shape they lie around, as WebDataset shards.

The bytes of an image are copied as they are, unless it is to be shrunk. What cannot be used is
counted with its reason and left out; it never ends the run. Two equal calls write equal bytes, also
when one of them was stopped or killed in between.
"""

import json
import re
import signal
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from reinforced_data.packing.bar import PackingBar
from reinforced_data.packing.class_names import open_class_names
from reinforced_data.packing.deduplicating import Deduplicate, Merged, merge_copies
from reinforced_data.packing.input_layouts import Input, open_input
from reinforced_data.packing.listing import Asked
from reinforced_data.packing.order import in_order
from reinforced_data.packing.resizing import parse_resize
from reinforced_data.packing.resume import Unfinished, open_unfinished
from reinforced_data.packing.samples import Looked, Packer
from reinforced_data.packing.tally import Tally
from reinforced_data.preparing import in_threads
from reinforced_data.shard_writer import new_shard, write_durably
from reinforced_data.source import MAX_PIXELS
from reinforced_data.stop_signals import Interrupted, StopSignals
from reinforced_data.store.write_errors import cannot_write
from teachers.suggestions import unknown_name

_REPORT = "pack.json"
# A Path has made one slash of two; a letter alone is a drive.
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")


@dataclass(frozen=True, kw_only=True)
class PackReport:
    """What `pack` wrote, and what it left out: `rows` = `samples` + `copies` + all of `skipped`.

    Attributes:
        out: the folder.
        layout: how the input was understood.
        shards: how many tar files.
        rows: of the input.
        samples: how many pictures are in the shards.
        copies: rows whose picture is there already, where copies were dropped or merged.
        shrunk: samples that were encoded anew.
        classes: how many different labels they have.
        skipped: reason -> count.
        examples: reason -> the first few names.
    """

    out: Path
    layout: str
    shards: int
    rows: int
    samples: int
    copies: int
    shrunk: int
    classes: int
    skipped: dict[str, int]
    examples: dict[str, list[str]]


def pack(
    input: str | Path,
    out: str | Path,
    *,
    layout: str = "auto",
    split: str | None = None,
    captions: str | None = None,
    images: str | None = None,
    labels: str | None = None,
    class_names: str | Path | None = None,
    root: str | Path | None = None,
    template: str = "a photo of a {}",
    samples_per_shard: int = 1000,
    seed: int | None = 0,
    resize: str = "none",
    quality: int = 95,
    max_pixels: int = MAX_PIXELS,
    deduplicate: Deduplicate = "none",
    verify: bool = False,
    progress: bool = True,
) -> PackReport:
    """Write pictures and their texts as `OUT/00000.tar` ..., a source like any other.

    Args:
        input: a folder of images, each with a .txt file of the same name beside it; a folder with
            one folder per class; a CSV, TSV, JSONL or Parquet table (or a folder of Parquet files)
            with a column of paths or encoded pictures; a Hugging Face dataset on disk; or what
            img2dataset has downloaded.
        out: a folder that does not exist yet, or is empty.
        layout: "folder", "classes", "table", "huggingface" or "img2dataset"; "auto" looks.
        split: of a Hugging Face dataset that has several.
        captions: the column of texts (or lists of them); by default `caption`, `captions`, `text`
            or `title`. Of tars: "json:FIELD", or the extension of a text member.
        images: the column of files or encoded pictures; by default one of pictures, else `path`,
            `file`, `filepath` or `image`.
        labels: the column of labels; by default `label`, if there is one.
        class_names: what labels that are numbers or ids are called: see `open_class_names`.
        root: where relative paths start; by default beside the table.
        template: the caption of a picture that has a class and no column of texts.
        samples_per_shard: pictures in each tar.
        seed: of the order in the shards; None keeps the order of the input (class folders then
            make shards of one class, which training cannot mix well).
        resize: "none", or what larger pictures are shrunk to: "shorter:512", "longer:512".
        quality: of the JPEGs that shrinking makes, 1 to 100.
        max_pixels: larger pictures are left out.
        deduplicate: what becomes of pictures with equal bytes: "drop" keeps the first, "merge"
            gives it the captions of all.
        verify: decode every image now, instead of reading headers alone.
        progress: whether to draw a progress bar on stderr.

    Returns:
        Counts, also written to `OUT/pack.json`.

    Raises:
        ValueError: what is given cannot be packed at all, `out` holds something, or an unfinished
            pack of it was begun with other settings.
        OSError: `out` cannot be written; finished shards are kept.
        Interrupted: SIGINT, SIGTERM or SIGUSR1 came; the same call goes on.
    """
    for what, path in ("input", input), ("out", out), ("root", root):
        _check_is_here(what, path)
    input, out = Path(input), Path(out)
    _check(out, samples_per_shard, quality, max_pixels, resize, deduplicate)
    asked = Asked(
        images=images,
        captions=captions,
        labels=labels,
        root=None if root is None else Path(root),
        template=template,
        class_names=None if class_names is None else open_class_names(class_names),
    )
    found = open_input(input, layout, split, asked)
    packer = Packer(
        resize=parse_resize(resize),
        quality=quality,
        max_pixels=max_pixels,
        verify=verify,
        deduplicate=deduplicate,
    )
    settings = {
        **vars(asked),
        **{"input": input.resolve(), "layout": found.layout, "split": split, "files": found.stamp},
        **{"samples_per_shard": samples_per_shard, "seed": seed, "resize": resize},
        **{"quality": quality, "max_pixels": max_pixels, "deduplicate": deduplicate},
        "verify": verify,
    }
    with open_unfinished(out, settings) as unfinished:
        _run(found, unfinished, packer, seed, samples_per_shard, out, progress)
        _require_samples(unfinished.tally, input, found.layout)
        report = _report(out, found.layout, unfinished)
        text = json.dumps({**_counts(report), "seed": seed}, indent=1, ensure_ascii=False)
        write_durably(unfinished.shards / _REPORT, (text + "\n").encode(errors="replace"))
    return report


def _check_is_here(what: str, path: str | Path | None) -> None:
    if path is not None and _URL.match(str(path)):
        raise ValueError(
            f"{what} {str(path)!r} is a URL, and packing reads and writes folders of this machine "
            "alone. Copy what is to be packed here first, pack into a folder, then copy its tar "
            "files to where they belong: reinforce and train read them at s3://, gs:// or hf://"
        )


def _check(
    out: Path, samples_per_shard: int, quality: int, max_pixels: int, resize: str, copies: str
) -> None:
    if copies not in get_args(Deduplicate):
        raise unknown_name("way to deduplicate", copies, get_args(Deduplicate))
    if samples_per_shard < 1:
        raise ValueError(f"samples_per_shard must be at least 1, got {samples_per_shard}")
    if not 1 <= quality <= 100:
        raise ValueError(f"quality must be 1 to 100, got {quality}")
    if max_pixels < 1 or (max_pixels > MAX_PIXELS and parse_resize(resize) is None):
        raise ValueError(
            f"max_pixels must be 1 to {MAX_PIXELS}, which is what a source is read up to, or more "
            f"where larger pictures are shrunk (resize); got {max_pixels}"
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} already holds something; give a new folder, or remove it first")


def _run(
    found: Input,
    unfinished: Unfinished,
    packer: Packer,
    seed: int | None,
    samples_per_shard: int,
    out: Path,
    progress: bool,
) -> None:
    with StopSignals() as signals:

        def stop_if_told() -> None:
            if signals.received:
                raise Interrupted(
                    f"stopped by {signal.Signals(signals.received).name} with {unfinished.done} "
                    f"shards of {out} finished; the same command goes on from there",
                    128 + signals.received,
                )

        if packer.deduplicate == "merge":
            packer.merged = _merged(found, unfinished, packer, seed, progress, stop_if_told)
        packer.seen |= unfinished.tally.digests
        start = unfinished.tally.rows
        with PackingBar("pack", found.num_rows, start, progress) as bar:
            rows = enumerate(in_order(found.parts, seed, start), start)
            looked = in_threads(lambda _, numbered: packer.look(*numbered), rows)
            watched = _watched(looked, bar, stop_if_told)
            _write_shards(watched, unfinished, packer, samples_per_shard)


def _merged(
    found: Input,
    unfinished: Unfinished,
    packer: Packer,
    seed: int | None,
    progress: bool,
    stop_if_told: Callable[[], None],
) -> Merged:
    merged = unfinished.merged()
    if merged is not None:
        return merged
    with PackingBar("find copies", found.num_rows, 0, progress) as bar:

        def on_row() -> None:
            bar.row()
            stop_if_told()

        merged = merge_copies(in_order(found.parts, seed), packer.max_pixels, on_row)
    unfinished.keep_merged(merged)
    return merged


def _watched(
    rows: Iterable[Looked], bar: PackingBar, stop_if_told: Callable[[], None]
) -> Iterator[Looked]:
    for row in rows:
        stop_if_told()
        yield row
        bar.row()


def _write_shards(
    rows: Iterator[Looked], unfinished: Unfinished, packer: Packer, samples_per_shard: int
) -> None:
    """Write shard by shard; a shard's record ends with its last sample."""
    counted = Tally()
    while (first := packer.next_sample(rows, counted, unfinished.tally.samples)) is not None:
        path, sample, size = unfinished.next_shard, first, 0
        try:
            with new_shard(path) as write:
                while sample is not None:
                    size = sum(map(len, sample.values()))
                    write(sample)
                    if counted.samples == samples_per_shard:
                        break
                    sample = packer.next_sample(rows, counted, unfinished.tally.samples)
        except OSError as error:
            raise cannot_write(error, path, size) from error
        unfinished.finish_shard(counted)
        counted = Tally()
    unfinished.tally.add(counted)


def _require_samples(tally: Tally, input: Path, layout: str) -> None:
    if tally.samples:
        return
    reasons = "; ".join(
        f"{count} x {reason}, such as {tally.examples[reason][0]}"
        for reason, count in tally.skipped.most_common()
    )
    raise ValueError(
        f"nothing of {input} (taken as {layout!r}) could be packed: {reasons}. Images need a .txt "
        "file of the same name beside them, a folder named after their class, or a table row"
    )


def _report(out: Path, layout: str, unfinished: Unfinished) -> PackReport:
    tally = unfinished.tally
    return PackReport(
        out=out,
        layout=layout,
        shards=unfinished.done,
        classes=len(tally.labels),
        **tally.counts(),
    )


def _counts(report: PackReport) -> dict[str, Any]:
    return {name: value for name, value in vars(report).items() if name != "out"}
