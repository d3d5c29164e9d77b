"""What `pack` is given, as a list of pictures with texts: folders, class folders and tables.

No image is opened here.
"""

import csv
import json
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow.parquet as pq

from reinforced_data.sample_texts import MAX_TEXT_BYTES
from reinforced_data.source import IMAGE_EXTENSIONS
from teachers.suggestions import did_you_mean

Layout = Literal["auto", "folder", "classes", "table"]
TABLES = (".csv", ".tsv", ".jsonl", ".parquet")
# A caption can be long; a line of a broken file can be endless.
_FIELD_LIMIT = 1 << 22


@dataclass(frozen=True, kw_only=True)
class Listed:
    """One picture as the input names it.

    Attributes:
        name: what reports call it: the path as the input has it.
        path: the file; None where the row cannot be used.
        captions: its texts.
        label: its class.
        problem: why the row cannot be used.
    """

    name: str
    path: Path | None = None
    captions: tuple[str, ...] = ()
    label: str | None = None
    problem: str | None = None


@dataclass(frozen=True, kw_only=True)
class Columns:
    """The columns of a table: each a name, or None for the usual one if it is there."""

    paths: str | None = None
    captions: str | None = None
    labels: str | None = None


def detect_layout(input: Path) -> Layout:
    """Guess the layout: a file is a table; folders without captions in them are classes.

    Raises:
        ValueError: `input` does not exist, is no known table, or is a folder without pictures.
    """
    if not input.exists():
        raise ValueError(f"{input} does not exist; give a folder of images or a table {TABLES}")
    if input.is_file():
        if input.suffix.lower() not in TABLES:
            raise ValueError(f"{input} is neither a folder nor a table ({', '.join(TABLES)})")
        return "table"
    pictures = list(_pictures(input))
    if not pictures:
        raise ValueError(f"{input} holds no {', '.join(IMAGE_EXTENSIONS)} files")
    in_folders = all(len(path.relative_to(input).parts) > 1 for path in pictures)
    captioned = any(path.with_suffix(".txt").is_file() for path in pictures)
    return "classes" if in_folders and not captioned else "folder"


def list_folder(folder: Path) -> Iterator[Listed]:
    """List pictures with the text of the .txt file of the same name beside them."""
    for path in _pictures(folder):
        name, text = path.relative_to(folder).as_posix(), path.with_suffix(".txt")
        try:
            data = read_limited(text, MAX_TEXT_BYTES) if text.exists() else b""
            caption = data.decode("utf-8-sig").strip()
        except (OSError, ValueError):
            yield Listed(name=name, problem="unreadable caption file")
            continue
        yield Listed(name=name, path=path, captions=(caption,) if caption else ())


def list_classes(folder: Path, template: str) -> Iterator[Listed]:
    """List pictures in class folders; underscores in a class name become spaces.

    Raises:
        ValueError: the template has no place for the class name.
    """
    if "{}" not in template:
        raise ValueError(f"the template needs {{}} where the class name goes, got {template!r}")
    for path in _pictures(folder):
        parts = path.relative_to(folder).parts
        name = "/".join(parts)
        if len(parts) == 1:
            yield Listed(name=name, problem="not in a class folder")
            continue
        label = parts[0].replace("_", " ").strip()
        yield Listed(name=name, path=path, captions=(template.replace("{}", label),), label=label)


def list_table(table: Path, columns: Columns, root: Path | None) -> Iterator[Listed]:
    """List the rows of a table; relative paths start at `root`, else at the table's folder.

    Raises:
        ValueError: an empty or broken table, or a column that is not there.
    """
    rows = _rows(table)
    first = next(rows, None)
    if first is None:
        raise ValueError(f"{table} has no rows")
    number, fields = first
    found = [str(name) for name in fields or ()]
    path_column = _choose(table, found, columns.paths, ("path", "file", "filepath", "image"))
    caption_column = _choose(
        table, found, columns.captions, ("caption", "captions", "text", "title")
    )
    label_column = columns.labels or ("label" if "label" in found else None)
    if columns.labels:
        _choose(table, found, columns.labels, ())
    root = table.parent if root is None else root
    for number, fields in _chain(first, rows):
        name = str((fields or {}).get(path_column) or "").strip()
        if fields is None or not name:
            problem = "row has no path" if fields is not None else "line is not a JSON object"
            yield Listed(name=f"{table.name}:{number}", problem=problem)
            continue
        label = fields.get(label_column) if label_column else None
        yield Listed(
            name=name,
            path=root / name,
            captions=_texts(fields.get(caption_column)),
            label=None if label in (None, "") else str(label).strip(),
        )


def read_limited(path: Path, limit: int) -> bytes:
    """Read a file whole.

    Raises:
        OSError: it is not there, or cannot be read.
        ValueError: it is a device or pipe, which may never end, or larger than `limit` bytes.
    """
    found = path.stat()
    if not stat.S_ISREG(found.st_mode) or found.st_size > limit:
        raise ValueError(f"{path} is no file of at most {limit} bytes")
    return path.read_bytes()


def _pictures(folder: Path) -> Iterator[Path]:
    """Find the pictures below a folder, sorted; hidden files and folders are not looked at."""
    endings = {f".{extension}" for extension in IMAGE_EXTENSIONS}
    for path in sorted(folder.rglob("*"), key=lambda path: path.as_posix()):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.suffix.lower() in endings and not hidden and path.is_file():
            yield path


def _chain(first: Any, rest: Iterable[Any]) -> Iterator[Any]:
    yield first
    yield from rest


def _texts(value: Any) -> tuple[str, ...]:
    values = value if isinstance(value, list | tuple) else [value]
    return tuple(text.strip() for text in values if isinstance(text, str) and text.strip())


def _choose(table: Path, found: list[str], asked: str | None, usual: tuple[str, ...]) -> str:
    """Return the column to use, or say which ones there are."""
    if asked is None:
        for name in usual:
            if name in found:
                return name
        raise ValueError(
            f"{table} has no column {' or '.join(usual)}; its columns are {found}. Name the one "
            "to use"
        )
    if asked not in found:
        hint = did_you_mean(asked, found)
        raise ValueError(f"{table} has no column {asked!r}{hint} Its columns are {found}")
    return asked


def _rows(table: Path) -> Iterator[tuple[int, Mapping[str, Any] | None]]:
    """Yield (line, fields); fields are None for a line that is no JSON object."""
    suffix = table.suffix.lower()
    try:
        if suffix == ".parquet":
            with pq.ParquetFile(table) as file:
                rows = (row for batch in file.iter_batches() for row in batch.to_pylist())
                yield from enumerate(rows, 1)
            return
        with table.open(encoding="utf-8-sig", newline="") as file:
            if suffix == ".jsonl":
                yield from ((n, _json(line)) for n, line in enumerate(file, 1) if line.strip())
            else:
                csv.field_size_limit(_FIELD_LIMIT)
                reader = csv.DictReader(file, delimiter="\t" if suffix == ".tsv" else ",")
                yield from ((reader.line_num, row) for row in reader)
    except UnicodeDecodeError as error:
        raise ValueError(f"{table} is not UTF-8 text: {error}") from error
    except csv.Error as error:
        raise ValueError(f"{table} cannot be read: {error}") from error


def _json(line: str) -> Mapping[str, Any] | None:
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return fields if isinstance(fields, dict) else None
