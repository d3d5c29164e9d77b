"""Which layout an input of `pack` has, and its parts."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal, get_args

from reinforced_data.packing.listing import Asked, Part, classes_part, folder_part, pictures
from reinforced_data.packing.listing_arrow import (
    PARQUET,
    SPLITS,
    STATE,
    dataset_parts,
    parquet_files,
    parquet_parts,
)
from reinforced_data.packing.listing_img2dataset import (
    folder_shards,
    img2dataset_parts,
    side_files,
    tar_shards,
)
from reinforced_data.packing.listing_tables import TEXT_TABLES, text_table_part
from reinforced_data.shard_reader import IMAGE_EXTENSIONS
from teachers.suggestions import unknown_name

Layout = Literal["auto", "folder", "classes", "table", "huggingface", "img2dataset"]
TABLES = (*TEXT_TABLES, PARQUET)


@dataclass(frozen=True, kw_only=True)
class Input:
    """What there is to pack.

    Attributes:
        layout: how it was understood.
        parts: its rows.
        stamp: changes when the files do; a stopped run must not go on with others.
    """

    layout: str
    parts: list[Part]
    stamp: str

    @property
    def num_rows(self) -> int | None:
        """How many rows there are, as far as that is known."""
        counts = [part.num_rows for part in self.parts if part.num_rows is not None]
        return sum(counts) if len(counts) == len(self.parts) else None


def open_input(input: Path, layout: str, split: str | None, asked: Asked) -> Input:
    """Look at an input; no picture is opened.

    Raises:
        ValueError: it does not exist, is nothing that can be packed, could be several things, or
            lacks a column or split.
    """
    if layout not in get_args(Layout):
        raise unknown_name("layout", layout, get_args(Layout))
    if not input.exists():
        raise ValueError(f"{input} does not exist; give a folder of images or a table {TABLES}")
    if layout == "auto":
        layout = _detect(input)
    else:
        _check_layout(input, layout)
    if split is not None and layout != "huggingface":
        raise ValueError(f"split={split!r} is for datasets on disk; {input} is taken as {layout!r}")
    if layout in ("folder", "classes"):
        found = list(pictures(input))
        as_folder = layout == "folder"
        part = folder_part(input, found) if as_folder else classes_part(input, found, asked)
        names = (path.relative_to(input).as_posix() for path in found)
        return Input(layout=layout, parts=[part], stamp=_digest(names))
    parts, files = _parts(input, layout, split, asked)
    return Input(layout=layout, parts=parts, stamp=_digest(map(_file_stamp, files)))


def _parts(
    input: Path, layout: str, split: str | None, asked: Asked
) -> tuple[list[Part], list[Path]]:
    if layout == "huggingface":
        return dataset_parts(input, split, asked)
    if layout == "img2dataset":
        shards = tar_shards(input) or folder_shards(input)
        files = [file for shard in shards for file in (shard, *side_files(shard))]
        return img2dataset_parts(shards, asked), files
    if input.suffix.lower() in TEXT_TABLES:
        return [text_table_part(input, asked)], [input]
    files = parquet_files(input)
    return parquet_parts(files, asked), files


def _file_stamp(path: Path) -> str:
    found = path.stat()
    return f"{path} {found.st_size} {found.st_mtime_ns}"


def _digest(lines: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for line in lines:
        digest.update(json.dumps(line).encode())
    return digest.hexdigest()


def _detect(input: Path) -> str:
    if input.is_file():
        if input.suffix.lower() not in TABLES:
            raise ValueError(f"{input} is neither a folder nor a table ({', '.join(TABLES)})")
        return "table"
    found = _signs(input)
    if not found:
        raise ValueError(
            f"{input} holds no {', '.join(IMAGE_EXTENSIONS)} files, no Parquet files, no dataset "
            "on disk and no output of img2dataset"
        )
    if len(found) > 1:
        said = "; ".join(f"{layout!r}: it has {sign}" for layout, sign in found.items())
        raise ValueError(
            f"{input} could be several things: {said}. Say which with layout={next(iter(found))!r} "
            "or another, or give the folder that holds only one"
        )
    return next(iter(found))


def _signs(folder: Path) -> dict[str, str]:
    """Every layout that the folder could be -> what it has that says so."""
    found: dict[str, str] = {}
    if (folder / SPLITS).is_file() or (folder / STATE).is_file():
        found["huggingface"] = SPLITS if (folder / SPLITS).is_file() else STATE
    tars, folders = tar_shards(folder), folder_shards(folder)
    if tars and not any(map(side_files, tars)):
        raise ValueError(
            f"{folder} holds shards already ({tars[0].name}), which `distill reinforce` reads as "
            'they are. To shrink, deduplicate or mix them, give layout="img2dataset"'
        )
    if tars or folders:
        found["img2dataset"] = (tars or folders)[0].name
    beside = {side for shard in (*tars, *folders) for side in side_files(shard)}
    tables = [path for path in parquet_files(folder) if path not in beside]
    if tables:
        found["table"] = tables[0].relative_to(folder).as_posix()
    return found if folders else found | _pictures_sign(folder)


def _pictures_sign(folder: Path) -> dict[str, str]:
    """Folders without captions in them are classes."""
    found = pictures(folder)
    first = list(islice(found, 1))
    if not first:
        return {}
    every = [*first, *found]
    in_folders = all(len(path.relative_to(folder).parts) > 1 for path in every)
    captioned = any(path.with_suffix(".txt").is_file() for path in every)
    layout = "classes" if in_folders and not captioned else "folder"
    return {layout: first[0].relative_to(folder).as_posix()}


def _check_layout(input: Path, layout: str) -> None:
    """Refuse a layout that the input cannot have."""
    if input.is_file() and layout != "table":
        raise ValueError(f"layout {layout!r} does not fit {input}, which looks like 'table'")
    if input.is_file() and input.suffix.lower() not in TABLES:
        raise ValueError(f"{input} is no table ({', '.join(TABLES)})")
    if input.is_dir() and layout == "table" and not parquet_files(input):
        raise ValueError(f"layout 'table' does not fit {input}: it holds no Parquet files")
    if layout == "img2dataset" and not (tar_shards(input) or folder_shards(input)):
        raise ValueError(f"layout 'img2dataset' does not fit {input}: it holds no shards")
