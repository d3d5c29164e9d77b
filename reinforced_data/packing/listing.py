"""What `pack` is given, as pictures with texts: the words for it, folders and class folders.

No image is opened here. An input is a list of parts; a part lists its rows when it is asked to, so
that an input larger than memory is never listed as a whole.
"""

import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from reinforced_data.packing.class_names import ClassNames
from reinforced_data.sample_texts import MAX_TEXT_BYTES
from reinforced_data.shard_reader import IMAGE_EXTENSIONS, MAX_IMAGE_BYTES

# What a listed row takes in memory besides its picture: names, texts, Python's objects.
ROW_BYTES = 1024


@dataclass(frozen=True, kw_only=True)
class Listed:
    """One picture as the input names it.

    Attributes:
        name: what reports call it: the path or key as the input has it.
        read: returns the encoded bytes; None where the row cannot be used. It raises OSError or
            ValueError for what cannot be read.
        captions: its texts.
        label: its class.
        problem: why the row cannot be used.
    """

    name: str
    read: Callable[[], bytes] | None = None
    captions: tuple[str, ...] = ()
    label: str | None = None
    problem: str | None = None


@dataclass(frozen=True, kw_only=True)
class Part:
    """Some rows of an input, listed when asked for: a folder, a row group, a tar.

    Attributes:
        rows: lists them, the same ones each time.
        num_rows: how many, where that is known beforehand.
        num_bytes: what they take in memory while they are listed.
        exact: whether `num_rows` is more than an estimate.
    """

    rows: Callable[[], Iterator[Listed]]
    num_rows: int | None
    num_bytes: int
    exact: bool = True


@dataclass(frozen=True, kw_only=True)
class Asked:
    """How rows become samples.

    Attributes:
        images, captions, labels: names of columns, or None for the usual one if it is there.
        root: where relative paths start; None for beside the table.
        template: the caption of a picture that has a class and no text.
        class_names: what labels are called; None where they are names.
    """

    images: str | None = None
    captions: str | None = None
    labels: str | None = None
    root: Path | None = None
    template: str = "a photo of a {}"
    class_names: ClassNames | None = None

    def __post_init__(self) -> None:
        """Refuse a template that would give every class the same caption."""
        if "{}" not in self.template:
            raise ValueError(
                f"the template needs {{}} where the class name goes, got {self.template!r}"
            )

    def named(self, label: str | None) -> tuple[str | None, str | None]:
        """A label's class name and None; or None and why its row cannot be used."""
        if label is None or self.class_names is None:
            return label, None
        name = self.class_names.find(label)
        return name, "label without a name" if name is None else None

    def from_label(self, label: str) -> tuple[str, ...]:
        """The caption made of a class; underscores are spaces."""
        return (self.template.replace("{}", label.replace("_", " ").strip()),)


def folder_part(folder: Path, found: list[Path]) -> Part:
    """The pictures of a folder with the text of the .txt file of the same name beside them."""
    return _part_of(found, partial(_captioned_row, folder))


def classes_part(folder: Path, found: list[Path], asked: Asked) -> Part:
    """The pictures of class folders; underscores in a folder's name become spaces."""
    return _part_of(found, partial(_class_row, folder, asked))


def _part_of(found: list[Path], listed: Callable[[Path], Listed]) -> Part:
    return Part(
        rows=lambda: map(listed, found), num_rows=len(found), num_bytes=ROW_BYTES * len(found)
    )


def _captioned_row(folder: Path, path: Path) -> Listed:
    name, text = path.relative_to(folder).as_posix(), path.with_suffix(".txt")
    try:
        data = read_limited(text, MAX_TEXT_BYTES) if text.exists() else b""
        caption = data.decode("utf-8-sig").strip()
    except (OSError, ValueError):
        return Listed(name=name, problem="unreadable caption file")
    return Listed(name=name, read=reader_of(path), captions=(caption,) if caption else ())


def _class_row(folder: Path, asked: Asked, path: Path) -> Listed:
    parts = path.relative_to(folder).parts
    name = "/".join(parts)
    if len(parts) == 1:
        return Listed(name=name, problem="not in a class folder")
    label, problem = asked.named(parts[0])
    if label is None:
        return Listed(name=name, problem=problem)
    if asked.class_names is None:
        label = label.replace("_", " ").strip()
    captions = asked.from_label(label)
    return Listed(name=name, read=reader_of(path), captions=captions, label=label)


def pictures(folder: Path) -> Iterator[Path]:
    """Find the pictures below a folder, sorted; hidden files and folders are not looked at."""
    endings = {f".{extension}" for extension in IMAGE_EXTENSIONS}
    for path in sorted(folder.rglob("*"), key=lambda path: path.as_posix()):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.suffix.lower() in endings and not hidden and path.is_file():
            yield path


def reader_of(path: Path) -> Callable[[], bytes]:
    """How the picture in a file is read."""
    return partial(read_limited, path, MAX_IMAGE_BYTES)


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


def texts_of(value: object) -> tuple[str, ...]:
    """The texts in a field that holds one or a list of them."""
    values = value if isinstance(value, list | tuple) else [value]
    return tuple(text.strip() for text in values if isinstance(text, str) and text.strip())
