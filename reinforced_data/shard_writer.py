"""Writing WebDataset shards whole or not at all, and the same bytes twice.

Used by `pack`, `pack_glyphs` and tests. Reading is source.py's.
"""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path

from webdataset import TarWriter

ShardSample = Mapping[str, bytes | str]
"""`__key__` and one entry per member: extension -> content."""


@contextmanager
def published_folder(out: Path) -> Iterator[Path]:
    """Yield an empty folder beside `out` that becomes `out` when the block ends well.

    Whatever goes wrong inside, `out` is untouched and the folder is removed. `out` may exist if it
    is an empty folder.

    Raises:
        FileExistsError: `out` holds something, also when another process was faster.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".partial", dir=out.parent))
    try:
        partial.chmod(0o755)
        yield partial
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise FileExistsError(f"{out} already holds something; nothing was written there")
        os.rename(partial, out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_shards(
    folder: Path, samples: Iterable[ShardSample], *, samples_per_shard: int
) -> list[Path]:
    """Write `00000.tar`, `00001.tar` ... into `folder`; times and owners are fixed.

    Raises:
        ValueError: `samples_per_shard` is below 1.
    """
    if samples_per_shard < 1:
        raise ValueError(f"samples_per_shard must be at least 1, got {samples_per_shard}")
    folder.mkdir(parents=True, exist_ok=True)
    remaining, shards = iter(samples), []
    while first := list(islice(remaining, 1)):
        shard = folder / f"{len(shards):05d}.tar"
        with new_shard(shard) as write:
            for sample in chain(first, islice(remaining, samples_per_shard - 1)):
                write(sample)
        shards.append(shard)
    return shards


@contextmanager
def new_shard(path: Path) -> Iterator[Callable[[ShardSample], None]]:
    """Yield a function that adds a sample; the tar has its name when the block has ended well.

    Times and owners are fixed, so that equal samples make equal bytes.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("wb") as file:
        with TarWriter(file, encoder=False, mtime=0, user="", group="") as writer:
            yield lambda sample: writer.write(_encoded(sample))
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def write_durably(path: Path, data: bytes) -> None:
    """Write a file whole or not at all."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def _encoded(sample: ShardSample) -> dict[str, bytes | str]:
    """Turn texts into bytes; the key stays a string."""
    return {
        name: value.encode() if isinstance(value, str) and name != "__key__" else value
        for name, value in sample.items()
    }
