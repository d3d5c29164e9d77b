"""Remote shards on the local disk, while training reads from them.

A window of shards is read in random order, a few rows at a time, over many epochs: from a bucket
each shard is therefore fetched once and then mapped. Files of a store never change, and a source
shard that changed has another size or is refused sample by sample; so a name made of URL and size
is enough. Processes of a machine share the folder; a lock per file lets one of them fetch it.
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa

from reinforced_data.store.write_errors import cannot_write

_GIGABYTE = 10**9
_USUAL_GIGABYTES = 50.0


class ShardCache:
    """Files in a folder, the least recently used going first.

    DISTILL_CACHE_DIR says where (by default `clip-distill/shards` in the user's cache folder) and
    DISTILL_CACHE_GB how much, 50 by default. A window's shards should fit, source included.
    """

    def __init__(self, folder: Path | None = None, max_bytes: int | None = None) -> None:
        """Nothing is created before something is fetched."""
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        usual = os.environ.get("DISTILL_CACHE_DIR") or Path(home, "clip-distill", "shards")
        self.folder = Path(folder or usual)
        self.max_bytes = max_bytes if max_bytes is not None else _asked_bytes()

    def fetch(self, fs: Any, path: str, size: int) -> Path:
        """Return the local copy of a remote file of `size` bytes, which is fetched if need be.

        Raises:
            ValueError: the remote file has another size.
            OSError: it cannot be read, or the disk is full.
        """
        name = hashlib.sha256(f"{fs.unstrip_protocol(path)} {size}".encode()).hexdigest()[:32]
        local = self.folder / name
        if not _touch(local):
            self.folder.mkdir(parents=True, exist_ok=True)
            with self._lock(name):
                if not _touch(local):
                    self._make_room(size)
                    self._download(fs, path, size, local)
        return local

    def map(self, fs: Any, path: str, size: int) -> pa.Buffer:
        """Map the local copy into memory; raises as `fetch` does."""
        while True:
            copy = self.fetch(fs, path, size)
            with contextlib.suppress(FileNotFoundError):  # another process has just made room of it
                return mapped(str(copy))

    def _download(self, fs: Any, path: str, size: int, local: Path) -> None:
        temporary = local.with_name(f".{local.name}.{uuid.uuid4().hex[:8]}.tmp")
        try:
            fs.get_file(path, str(temporary))
            found = temporary.stat().st_size
            if found != size:
                raise ValueError(
                    f"{fs.unstrip_protocol(path)} has {found} bytes, the store says {size}: it "
                    "changed after it was written down. Restore it, or make a new store"
                )
            temporary.replace(local)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise cannot_write(error, local, size) from error
            raise
        finally:
            temporary.unlink(missing_ok=True)

    def _make_room(self, size: int) -> None:
        """Remove what was not used for longest; who has it open or mapped keeps it."""
        kept = []
        for path in self.folder.iterdir():
            try:
                found = path.stat()
            except FileNotFoundError:
                continue  # another process removed it
            kept.append((found.st_mtime, found.st_size, path))
        total = size + sum(bytes for _, bytes, _ in kept)
        for _, bytes, path in sorted(kept):
            if total <= self.max_bytes:
                break
            if path.suffix != ".lock" and not self._comes(path):
                path.unlink(missing_ok=True)
                total -= bytes

    def _comes(self, path: Path) -> bool:
        """Whether another process is fetching this: a temporary file whose name is locked."""
        if path.suffix != ".tmp":
            return False
        with open(self.folder / f"{path.name.split('.')[1]}.lock", "w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    @contextmanager
    def _lock(self, name: str) -> Iterator[None]:
        """Hold a lock that ends with this process, however that ends."""
        with open(self.folder / f"{name}.lock", "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def mapped(path: str) -> pa.Buffer:
    """Map a file into memory."""
    with pa.memory_map(path) as file:
        return file.read_buffer()


def _touch(path: Path) -> bool:
    """Say that a file is used; False when it is not there."""
    try:
        os.utime(path)
    except FileNotFoundError:
        return False
    return True


def _asked_bytes() -> int:
    text = os.environ.get("DISTILL_CACHE_GB") or str(_USUAL_GIGABYTES)
    try:
        return int(float(text) * _GIGABYTE)
    except ValueError:
        raise ValueError(f"DISTILL_CACHE_GB={text!r} is no number of gigabytes") from None
