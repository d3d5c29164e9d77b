"""What img2dataset has downloaded, as rows for `pack`: its `webdataset` and its `files` format.

A shard is a tar, or a folder of pictures with .txt and .json files. Beside it lie `NAME.parquet`,
with a row per picture that was asked for, and `NAME_stats.json`. Pictures that were not downloaded
have a row there and nothing else; they are counted by their `status`. Its `parquet` format is a
Parquet table like any other.
"""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from reinforced_data.packing.listing import (
    ROW_BYTES,
    Asked,
    Listed,
    Part,
    pictures,
    read_limited,
    reader_of,
    texts_of,
)
from reinforced_data.sample_texts import MAX_TEXT_BYTES
from reinforced_data.shard_reader import BrokenShard, scan_shard

_STATS = "_stats.json"
# img2dataset's own default, where nothing says how many rows a shard has.
_USUAL_ROWS = 10_000


def side_files(shard: Path) -> list[Path]:
    """The Parquet and statistics files of a shard that are there."""
    name = shard.name.removesuffix(".tar")
    beside = (shard.with_name(name + suffix) for suffix in (".parquet", _STATS))
    return [path for path in beside if path.is_file()]


def tar_shards(folder: Path) -> list[Path]:
    """The tars of a folder, sorted."""
    return sorted(folder.glob("*.tar"))


def folder_shards(folder: Path) -> list[Path]:
    """The subfolders that have a file of statistics or a Parquet file beside them, sorted."""
    return sorted(path for path in folder.iterdir() if path.is_dir() and side_files(path))


def img2dataset_parts(shards: list[Path], asked: Asked) -> list[Part]:
    """One part per shard; `asked.captions` is as in `read_shard`, for tars alone."""
    parts = []
    for shard in shards:
        expected = _expected_rows(shard)
        part = Part(
            rows=partial(_rows, shard, asked),
            num_rows=expected,
            num_bytes=ROW_BYTES * (expected or _USUAL_ROWS),
            exact=False,
        )
        parts.append(part)
    return parts


def _expected_rows(shard: Path) -> int | None:
    """How many rows the side files promise; a shard that was not finished has fewer."""
    for path in side_files(shard):
        try:
            if path.suffix == ".parquet":
                return pq.read_metadata(path).num_rows
            return int(json.loads(path.read_text(encoding="utf-8"))["count"])
        except (pa.ArrowException, OSError, ValueError, KeyError, TypeError):
            continue
    return None


def _rows(shard: Path, asked: Asked) -> Iterator[Listed]:
    yield from _folder_rows(shard) if shard.is_dir() else _tar_rows(shard, asked)
    yield from _failed_rows(shard)


def _tar_rows(shard: Path, asked: Asked) -> Iterator[Listed]:
    try:
        for sample in scan_shard(shard, captions_from=asked.captions, with_images=False):
            label, problem = asked.named(sample.label)
            yield Listed(
                name=f"{shard.name}:{sample.key}",
                read=partial(_read_range, shard, sample.offset, sample.size),
                captions=sample.captions,
                label=label,
                problem=sample.problem or problem,
            )
    except BrokenShard:
        yield Listed(name=shard.name, problem="broken-shard")


def _read_range(path: Path, offset: int, size: int) -> bytes:
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(size)


def _folder_rows(folder: Path) -> Iterator[Listed]:
    for path in pictures(folder):
        name = f"{folder.name}/{path.relative_to(folder).as_posix()}"
        try:
            captions = _captions_beside(path)
        except (OSError, ValueError):
            yield Listed(name=name, problem="unreadable caption file")
            continue
        yield Listed(name=name, read=reader_of(path), captions=captions)


def _captions_beside(path: Path) -> tuple[str, ...]:
    """The .txt file's text, else the .json file's `caption`."""
    text, about = path.with_suffix(".txt"), path.with_suffix(".json")
    if text.exists():
        return texts_of(read_limited(text, MAX_TEXT_BYTES).decode())
    fields = json.loads(read_limited(about, MAX_TEXT_BYTES)) if about.exists() else {}
    return texts_of(fields.get("caption")) if isinstance(fields, dict) else ()


def _failed_rows(shard: Path) -> Iterator[Listed]:
    """What the Parquet file lists as not downloaded."""
    path = shard.with_name(shard.name.removesuffix(".tar") + ".parquet")
    if not path.is_file():
        return
    try:
        with pq.ParquetFile(path) as file:
            found = set(file.schema_arrow.names)
            names = [name for name in ("key", "url", "status") if name in found]
            rows = file.read(columns=names).to_pylist() if "status" in found else []
    except (pa.ArrowException, OSError):
        yield Listed(name=path.name, problem="unreadable side file")
        return
    for row in rows:
        if row["status"] != "success":
            name = f"{shard.name}:{row.get('key') or row.get('url')}"
            yield Listed(name=name, problem=str(row["status"] or "no status"))
