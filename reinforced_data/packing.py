"""Pictures with texts, in whatever shape they lie around, as WebDataset shards.

The bytes of an image are copied as they are. What cannot be used is counted with its reason and
left out; it never ends the run. Two equal calls write equal bytes.
"""

import json
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from reinforced_data.listing import (
    Columns,
    Layout,
    Listed,
    detect_layout,
    list_classes,
    list_folder,
    list_table,
    read_limited,
)
from reinforced_data.shard_reader import MAX_IMAGE_BYTES
from reinforced_data.shard_writer import ShardSample, published_folder, write_shards
from reinforced_data.source import UnreadableImage, decode_image, image_size
from teachers.suggestions import unknown_name

_REPORT = "pack.json"
_EXAMPLES = 10


@dataclass(frozen=True, kw_only=True)
class PackReport:
    """What `pack` wrote, and what it left out.

    Attributes:
        out: the folder.
        layout: how the input was understood.
        shards: how many tar files.
        samples: how many pictures are in them.
        classes: how many different labels they have.
        skipped: reason -> count.
        examples: reason -> the first few names.
    """

    out: Path
    layout: str
    shards: int
    samples: int
    classes: int
    skipped: dict[str, int]
    examples: dict[str, list[str]]


@dataclass
class _Tally:
    """Counts that grow while the shards are written."""

    samples: int = 0
    labels: set[str] = field(default_factory=set)
    skipped: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def skip(self, listed: Listed, reason: str) -> None:
        self.skipped[reason] += 1
        if len(self.examples[reason]) < _EXAMPLES:
            self.examples[reason].append(listed.name)


def pack(
    input: str | Path,
    out: str | Path,
    *,
    layout: str = "auto",
    captions: str | None = None,
    paths: str | None = None,
    labels: str | None = None,
    root: str | Path | None = None,
    template: str = "a photo of a {}",
    samples_per_shard: int = 1000,
    seed: int | None = 0,
    verify: bool = False,
) -> PackReport:
    """Write pictures and their texts as `OUT/00000.tar` ..., a source like any other.

    Args:
        input: a folder of images, each with a .txt file of the same name beside it; a folder with
            one folder per class; or a CSV, TSV, JSONL or Parquet table with a column of paths.
        out: a folder that does not exist yet, or is empty.
        layout: "folder", "classes" or "table"; "auto" looks at the input.
        captions: the table's column of texts (or lists of them); by default `caption`, `captions`,
            `text` or `title`.
        paths: the table's column of image files; by default `path`, `file`, `filepath` or `image`.
        labels: the table's column of class names; by default `label`, if there is one.
        root: where relative paths of a table start; by default beside the table.
        template: the caption of a picture in a class folder.
        samples_per_shard: pictures in each tar.
        seed: of the order in the shards; None keeps the order of the input (class folders then
            make shards of one class, which training cannot mix well).
        verify: decode every image now, instead of reading headers alone.

    Returns:
        Counts, also written to `OUT/pack.json`.

    Raises:
        ValueError: what is given cannot be packed at all, or `out` holds something.
    """
    input, out = Path(input), Path(out)
    if layout not in get_args(Layout):
        raise unknown_name("layout", layout, get_args(Layout))
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} already holds something; give a new folder, or remove it first")
    detected = detect_layout(input)
    if layout == "auto":
        layout = detected
    elif (layout == "table") != (detected == "table"):
        raise ValueError(f"layout {layout!r} does not fit {input}, which looks like {detected!r}")
    columns = Columns(paths=paths, captions=captions, labels=labels)
    listed = _list(input, layout, columns, None if root is None else Path(root), template)
    if seed is not None:
        listed = list(listed)
        random.Random(seed).shuffle(listed)
    tally = _Tally()
    with published_folder(out) as folder:
        samples = _samples(listed, tally, verify)
        shards = write_shards(folder, samples, samples_per_shard=samples_per_shard)
        _require_samples(tally, input, layout)
        report = _report(out, layout, len(shards), tally)
        text = json.dumps({**_counts(report), "seed": seed}, indent=1, ensure_ascii=False)
        (folder / _REPORT).write_text(text + "\n", encoding="utf-8")
    return report


def _list(
    input: Path, layout: str, columns: Columns, root: Path | None, template: str
) -> Iterable[Listed]:
    if layout == "folder":
        return list_folder(input)
    if layout == "classes":
        return list_classes(input, template)
    return list_table(input, columns, root)


def _samples(listed: Iterable[Listed], tally: _Tally, verify: bool) -> Iterator[ShardSample]:
    """Read the images one at a time; what is no sample goes to the tally."""
    for item in listed:
        if item.problem is not None or item.path is None:
            tally.skip(item, item.problem or "row has no path")
            continue
        if not item.captions and item.label is None:
            tally.skip(item, "no caption")
            continue
        try:
            data = read_limited(item.path, MAX_IMAGE_BYTES)
            image_size(data)
            if verify:
                decode_image(data)
        except UnreadableImage as error:
            tally.skip(item, error.reason)
            continue
        except (OSError, ValueError) as error:
            missing = isinstance(error, FileNotFoundError | NotADirectoryError)
            tally.skip(item, "missing file" if missing else "unreadable file")
            continue
        about: dict[str, Any] = {"captions": item.captions, "path": item.name}
        if item.label is not None:
            about["label"] = item.label
            tally.labels.add(item.label)
        yield {
            "__key__": f"{tally.samples:08d}",
            _extension(data): data,
            "json": json.dumps(about, ensure_ascii=False),
        }
        tally.samples += 1


def _extension(data: bytes) -> str:
    """Name the format by the bytes, since files are often named wrongly."""
    if data[:3] == b"\xff\xd8\xff":
        return "jpg"
    return "png" if data[:4] == b"\x89PNG" else "webp"


def _require_samples(tally: _Tally, input: Path, layout: str) -> None:
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


def _report(out: Path, layout: str, shards: int, tally: _Tally) -> PackReport:
    return PackReport(
        out=out,
        layout=layout,
        shards=shards,
        samples=tally.samples,
        classes=len(tally.labels),
        skipped=dict(tally.skipped),
        examples=dict(tally.examples),
    )


def _counts(report: PackReport) -> dict[str, Any]:
    names = ("layout", "shards", "samples", "classes", "skipped", "examples")
    return {name: getattr(report, name) for name in names}
