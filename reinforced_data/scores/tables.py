"""Scores that somebody else has computed: a table of keys and numbers, of any usual format."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from reinforced_data.packing.listing_tables import TEXT_TABLES, choose_column, table_rows

KEYS = ("key", "__key__", "id")
SCORES = ("score", "value")
_PARQUET = ".parquet"


def read_scores(
    table: str | Path, *, keys: str | None = None, scores: str | None = None
) -> dict[str, float]:
    """Read a table: key -> score. Cells without a number are left out.

    Args:
        table: the file.
        keys: the column of sample keys; by default `key`, `__key__` or `id`.
        scores: the column of numbers; by default `score` or `value`.

    Raises:
        ValueError: there is no such table or column, a key comes twice, or a score is no finite
            number.
    """
    path = Path(table)
    if path.suffix.lower() not in (*TEXT_TABLES, _PARQUET) or not path.is_file():
        raise ValueError(f"{path} is no table: give a file {', '.join((*TEXT_TABLES, _PARQUET))}")
    found: dict[str, float] = {}
    for place, key, value in _cells(path, keys, scores):
        if key is None or key == "" or value is None or value == "":
            continue
        key = str(key)
        if key in found:
            raise ValueError(f"{path}, row {place}: the key {key!r} comes twice")
        found[key] = _number(value, f"{path}, row {place}, key {key!r}")
    if not found:
        raise ValueError(f"{path} holds no scores")
    return found


def _cells(path: Path, keys: str | None, scores: str | None) -> Iterator[tuple[int, Any, Any]]:
    if path.suffix.lower() == _PARQUET:
        yield from _parquet_cells(path, keys, scores)
        return
    names: tuple[str, str] | None = None
    for place, fields in table_rows(path):
        if fields is None:
            raise ValueError(f"{path}, line {place}, is not a JSON object")
        if names is None:
            there = [str(name) for name in fields]
            names = (
                choose_column(path, there, keys, KEYS),
                choose_column(path, there, scores, SCORES),
            )
        yield place, fields.get(names[0]), fields.get(names[1])


def _parquet_cells(
    path: Path, keys: str | None, scores: str | None
) -> Iterator[tuple[int, Any, Any]]:
    try:
        with pq.ParquetFile(path) as file:
            there = file.schema_arrow.names
            names = [
                choose_column(path, there, keys, KEYS),
                choose_column(path, there, scores, SCORES),
            ]
            place = 0
            for batch in file.iter_batches(columns=names):
                columns = [batch[name].to_pylist() for name in names]
                for key, value in zip(*columns, strict=True):
                    place += 1
                    yield place, key, value
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path} is no readable Parquet file: {error}") from error


def _number(value: Any, where: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{where}: {value!r} is no finite number")
    return number
