"""CSV, TSV and JSONL tables of paths and texts, as rows for `pack`."""

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from reinforced_data.packing.listing import ROW_BYTES, Asked, Listed, Part, reader_of, texts_of
from teachers.suggestions import did_you_mean

TEXT_TABLES = (".csv", ".tsv", ".jsonl")
PATHS = ("path", "file", "filepath", "image")
CAPTIONS = ("caption", "captions", "text", "title")
LABEL = "label"
# A caption can be long; a line of a broken file can be endless.
_FIELD_LIMIT = 1 << 22


def text_table_part(table: Path, asked: Asked) -> Part:
    """The rows of a table; relative paths start at `asked.root`, else at the table's folder.

    Raises:
        ValueError: an empty or broken table, or a column that is not there.
    """
    rows = table_rows(table)
    first = next(rows, None)
    if first is None:
        raise ValueError(f"{table} has no rows")
    found = [str(name) for name in first[1] or ()]
    images = choose_column(table, found, asked.images, PATHS)
    captions, labels = choose_texts(table, found, asked)
    root = table.parent if asked.root is None else asked.root
    # Counted by reading it once: the last line may be where it breaks.
    num_rows = 1 + sum(1 for _ in rows)

    def listed() -> Iterator[Listed]:
        for number, fields in table_rows(table):
            name = str((fields or {}).get(images) or "").strip()
            if fields is None or not name:
                problem = "row has no path" if fields is not None else "line is not a JSON object"
                yield Listed(name=f"{table.name}:{number}", problem=problem)
                continue
            label, problem = asked.named(label_of(fields.get(labels)) if labels else None)
            texts = texts_of(fields.get(captions)) if captions else ()
            if captions is None and label is not None:
                texts = asked.from_label(label)
            read = reader_of(root / name)
            yield Listed(name=name, read=read, captions=texts, label=label, problem=problem)

    return Part(rows=listed, num_rows=num_rows, num_bytes=ROW_BYTES * num_rows)


def choose_column(
    table: Path, found: Sequence[str], asked: str | None, usual: Sequence[str]
) -> str:
    """Return the column to use, or say which ones there are."""
    if asked is None:
        for name in usual:
            if name in found:
                return name
        raise ValueError(
            f"{table} has no column {' or '.join(usual)}; its columns are {list(found)}. Name the "
            "one to use"
        )
    if asked not in found:
        hint = did_you_mean(asked, found)
        raise ValueError(f"{table} has no column {asked!r}{hint} Its columns are {list(found)}")
    return asked


def choose_texts(table: Path, found: Sequence[str], asked: Asked) -> tuple[str | None, str | None]:
    """Return the columns of captions and of labels; one of them is there.

    Raises:
        ValueError: a column that is asked for is not there, or there is neither.
    """
    labels = asked.labels or (LABEL if LABEL in found else None)
    if asked.labels:
        choose_column(table, found, asked.labels, ())
    if labels and asked.captions is None and not set(CAPTIONS).intersection(found):
        return None, labels
    return choose_column(table, found, asked.captions, CAPTIONS), labels


def label_of(value: object) -> str | None:
    """A class as text; None where there is none."""
    return None if value is None or value == "" else str(value).strip()


def table_rows(table: Path) -> Iterator[tuple[int, Mapping[str, Any] | None]]:
    """Yield (line, fields); fields are None for a line that is no JSON object."""
    suffix = table.suffix.lower()
    try:
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
