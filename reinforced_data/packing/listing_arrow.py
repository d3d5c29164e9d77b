"""Parquet tables and Hugging Face datasets on disk, as rows for `pack`.

Both are Arrow: a row group, or a record batch, is a part. A column of pictures holds paths, encoded
bytes, or structs of `bytes` and `path` as the `datasets` package writes them; that package is not
needed. Integers of a `ClassLabel` become its names.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from reinforced_data.packing.listing import ROW_BYTES, Asked, Listed, Part, read_limited, texts_of
from reinforced_data.packing.listing_tables import (
    PATHS,
    choose_column,
    choose_texts,
    label_of,
)
from reinforced_data.shard_reader import MAX_IMAGE_BYTES
from teachers.suggestions import did_you_mean

PARQUET = ".parquet"
SPLITS = "dataset_dict.json"
STATE = "state.json"
_PICTURES = ("image", "img", "picture", "jpg", "jpeg", "png", "webp", "image_bytes", "bytes")


@dataclass(frozen=True, kw_only=True)
class _Chosen:
    """The columns of one table, and how their values are read."""

    images: str
    captions: str | None
    labels: str | None
    class_names: Sequence[str]
    root: Path
    asked: Asked

    @property
    def columns(self) -> list[str]:
        names = [self.images, self.captions, self.labels]
        return list(dict.fromkeys(name for name in names if name is not None))


def parquet_files(input: Path) -> list[Path]:
    """A file, or those below a folder, sorted."""
    return [input] if input.is_file() else sorted(input.rglob(f"*{PARQUET}"))


def parquet_parts(files: Sequence[Path], asked: Asked) -> list[Part]:
    """One part per row group, of all files.

    Raises:
        ValueError: a file is no Parquet, or lacks a column.
    """
    parts = []
    for path in files:
        try:
            with pq.ParquetFile(path) as file:
                schema, metadata = file.schema_arrow, file.metadata
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"{path} is no readable Parquet file: {error}") from error
        chosen = _choose(path, schema, asked, path.parent)
        for group in range(metadata.num_row_groups):
            row_group = metadata.row_group(group)
            part = Part(
                rows=partial(_row_group, path, group, row_group.num_rows, chosen),
                num_rows=row_group.num_rows,
                num_bytes=row_group.total_byte_size + ROW_BYTES * row_group.num_rows,
            )
            parts.append(part)
    if not sum(part.num_rows or 0 for part in parts):
        raise ValueError(f"{files[0] if len(files) == 1 else files[0].parent} has no rows")
    return parts


def _row_group(path: Path, group: int, num_rows: int, chosen: _Chosen) -> Iterator[Listed]:
    try:
        with pq.ParquetFile(path) as file:
            table = file.read_row_group(group, columns=chosen.columns)
    except (pa.ArrowException, OSError):
        name = f"{path.name}, row group {group}"
        yield from (Listed(name=name, problem="broken row group") for _ in range(num_rows))
        return
    first = 0
    for batch in table.to_batches():
        yield from _rows(batch, f"{path.name}, row group {group}, row", first, chosen)
        first += batch.num_rows


def dataset_parts(folder: Path, split: str | None, asked: Asked) -> tuple[list[Part], list[Path]]:
    """One part per record batch of a dataset that `save_to_disk` wrote; also list its files.

    Raises:
        ValueError: splits and none, or another, is asked for; a file that is missing or broken.
    """
    folder = _split_folder(folder, split)
    files = [folder / str(entry["filename"]) for entry in _state(folder)["_data_files"]]
    parts = []
    for path in files:
        for number, batch in enumerate(_batches(path)):
            chosen = _choose(path, batch.schema, asked, folder)
            name = f"{path.name}, batch {number}, row"
            part = Part(
                rows=partial(_rows, batch, name, 0, chosen),
                num_rows=batch.num_rows,
                # The file is mapped: pictures take no memory before they are read.
                num_bytes=ROW_BYTES * batch.num_rows,
            )
            parts.append(part)
    if not sum(part.num_rows or 0 for part in parts):
        raise ValueError(f"{folder} has no rows")
    return parts, files


def _split_folder(folder: Path, split: str | None) -> Path:
    listing = folder / SPLITS
    if not listing.is_file():
        if split is not None:
            raise ValueError(f"{folder} is one dataset without splits; leave out split={split!r}")
        return folder
    splits = [str(name) for name in json.loads(listing.read_text(encoding="utf-8"))["splits"]]
    if split is None and len(splits) > 1:
        raise ValueError(f"{folder} has the splits {splits}; say which one: --split {splits[0]}")
    if split is not None and split not in splits:
        hint = did_you_mean(split, splits)
        raise ValueError(f"{folder} has no split {split!r}{hint} It has {splits}")
    return folder / (split or splits[0])


def _state(folder: Path) -> dict[str, Any]:
    path = folder / STATE
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{folder} is no dataset on disk: {path} cannot be read ({error}). "
            "`Dataset.save_to_disk` writes one"
        ) from error


def _batches(path: Path) -> Iterator[pa.RecordBatch]:
    """Map a file and go through its batches; nothing of the pictures is read."""
    try:
        with pa.memory_map(str(path)) as file:
            yield from pa.ipc.open_stream(file.read_buffer())
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path} is no readable Arrow stream: {error}") from error


def _choose(table: Path, schema: pa.Schema, asked: Asked, root: Path) -> _Chosen:
    images = _choose_images(table, schema, asked.images)
    captions, labels = choose_texts(table, schema.names, asked)
    return _Chosen(
        images=images,
        captions=captions,
        labels=labels,
        class_names=_class_names(schema, labels),
        root=asked.root or root,
        asked=asked,
    )


def _choose_images(table: Path, schema: pa.Schema, asked: str | None) -> str:
    """The column asked for; else one of bytes by its name, the only one, or one of paths."""
    binary = [field.name for field in schema if _holds_bytes(field.type)]
    if asked is None:
        for name in _PICTURES:
            if name in binary:
                return name
        if len(binary) == 1:
            return binary[0]
        if binary:
            raise ValueError(f"{table} has pictures in {binary}; name the column to use")
    return choose_column(table, schema.names, asked, PATHS)


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _class_names(schema: pa.Schema, labels: str | None) -> Sequence[str]:
    """The names of a `ClassLabel`, from the metadata that `datasets` adds to a schema."""
    try:
        about = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        return list(about["info"]["features"][labels]["names"])
    except (ValueError, KeyError, TypeError):
        return ()


def _rows(batch: pa.RecordBatch, where: str, first: int, chosen: _Chosen) -> Iterator[Listed]:
    images = batch[chosen.images]
    captions = batch[chosen.captions].to_pylist() if chosen.captions else []
    labels = batch[chosen.labels].to_pylist() if chosen.labels else []
    for row in range(batch.num_rows):
        name, read = _picture(images, row, chosen.root)
        name = name or f"{where} {first + row}"
        label, problem = _named(labels[row], chosen) if labels else (None, None)
        texts = texts_of(captions[row]) if captions else ()
        if chosen.captions is None and label is not None:
            texts = chosen.asked.from_label(label)
        problem = "row has no picture" if read is None else problem
        yield Listed(name=name, read=read, captions=texts, label=label, problem=problem)


def _picture(images: pa.Array, row: int, root: Path) -> tuple[str, Callable[[], bytes] | None]:
    """A picture's path, if it has one, and how it is read, if there is something to read."""
    value, path = images[row], ""
    if pa.types.is_struct(images.type):
        has_path = images.type.get_field_index("path") >= 0
        path = (value["path"].as_py() or "") if has_path and value.is_valid else ""
        value = value["bytes"] if value.is_valid else value
    elif not _holds_bytes(images.type):
        path = str(value.as_py() or "").strip()
        return path, partial(read_limited, root / path, MAX_IMAGE_BYTES) if path else None
    if value.is_valid:
        return path, partial(_bytes, value)
    return path, partial(read_limited, root / path, MAX_IMAGE_BYTES) if path else None


def _bytes(value: Any) -> bytes:
    data = value.as_py()
    if len(data) > MAX_IMAGE_BYTES:
        raise ValueError(f"a picture of {len(data)} bytes; the limit is {MAX_IMAGE_BYTES}")
    return data


def _named(value: object, chosen: _Chosen) -> tuple[str | None, str | None]:
    """A label's class name, or why its row cannot be used."""
    label, problem = chosen.asked.named(_label(value, chosen.class_names))
    names = chosen.asked.class_names
    if problem is None or names is None or not isinstance(value, int):
        return label, problem
    # The hub's ImageNet has numbers whose ClassLabel names are other words for the classes.
    same_classes = len(names.numbered) == len(chosen.class_names)
    if same_classes or str(value) in names.by_label:
        return chosen.asked.named(str(value))
    return label, problem


def _label(value: object, class_names: Sequence[str]) -> str | None:
    if isinstance(value, int) and 0 <= value < len(class_names):
        return class_names[value]
    return label_of(value) if not (class_names and value == -1) else None
