"""Files of a store on any fsspec file system: whole or absent, and created at most once.

Locally a file is written under a temporary name in the same folder, synced, then renamed or, where
it must not exist yet, hard-linked: the kernel decides between two writers. Elsewhere fsspec's
`mode="create"` does: a conditional put on S3 and Google Cloud Storage. Some servers that speak S3
refuse the condition, some ignore it; so the first file that is created is put twice. A store
without conditional puts looks first and then writes, so two writers in the same instant may both
succeed; the later record counts, and names a file that is whole and equal. Local data is
memory-mapped; remote data is read whole.
"""

import contextlib
import errno
import hashlib
import json
import os
import re
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from fsspec.implementations.local import LocalFileSystem

from reinforced_data.locations import locate
from reinforced_data.reading.shard_cache import ShardCache, mapped
from reinforced_data.store.write_errors import cannot_write

_TRIES = 6
# What an S3-compatible server says that knows no conditional put.
_NO_CONDITIONS = (errno.ENOSYS, errno.ENOTSUP)
_TEMPORARY = re.compile(r"\.(.+)\.[0-9a-f]{8}\.tmp")


class _NoConditionsError(Exception):
    """The server says that it knows no conditional put."""


def temporary_of(name: str) -> str | None:
    """What a temporary file was to be called, or None when `name` is not one's."""
    match = _TEMPORARY.fullmatch(name)
    return match[1] if match else None


class Storage:
    """A folder, local or remote; all paths are relative to it and use slashes.

    Attributes:
        cache: where copies of remote data files are kept, by default nowhere.
    """

    def __init__(self, root: str | Path) -> None:
        """Resolve the file system; nothing is created."""
        self.cache: ShardCache | None = None
        self._url = str(root)
        self._process, self._fs = os.getpid(), None
        # Whether the server refuses to create a file that is there; None until it was tried.
        self._refuses: bool | None = None
        self.root = locate(self._url)[1]
        self.local = isinstance(self.fs, LocalFileSystem)
        self.name = self.root if self.local else self.fs.unstrip_protocol(self.root)

    @property
    def fs(self) -> Any:
        """The file system; a forked process makes its own, as connections cannot be shared."""
        if self._fs is None or self._process != os.getpid():
            self._process, self._fs = os.getpid(), locate(self._url)[0]
        return self._fs

    def _path(self, path: str) -> str:
        return f"{self.root}/{path}"

    def exists(self, path: str) -> bool:
        """Whether there is such a file."""
        if not self.local:
            self._look_again(path)
        return self.fs.exists(self._path(path))

    def list(self, folder: str, suffix: str) -> list[str]:
        """Names of the files of a folder that end in `suffix`, sorted; [] without the folder."""
        if self.local:
            # Far faster than fsspec where there are many commits.
            try:
                names = os.listdir(self._path(folder))
            except (FileNotFoundError, NotADirectoryError):
                names = []  # perhaps another writer has just removed it, as it was empty
        else:
            self._look_again(f"{folder}/_")
            try:
                names = [p.rsplit("/", 1)[-1] for p in self.fs.ls(self._path(folder), detail=False)]
            except FileNotFoundError:
                names = []
        return sorted(name for name in names if name.endswith(suffix))

    def list_details(self, folder: str) -> Sequence[dict[str, Any]]:
        """What the file system says of each file of a folder; [] without the folder."""
        self._look_again(f"{folder}/_")
        try:
            return self.fs.ls(self._path(folder), detail=True)
        except FileNotFoundError:
            return []

    def read(self, path: str) -> bytes:
        """Read a whole file."""
        if self.local:
            return Path(self._path(path)).read_bytes()
        return self.fs.cat_file(self._path(path))

    def read_json(self, path: str) -> dict[str, Any]:
        """Read a JSON object.

        Raises:
            ValueError: the file holds something else.
        """
        try:
            value = json.loads(self.read(path))
        except ValueError as error:
            raise ValueError(f"{self.name}/{path} is not JSON: {error}") from error
        if not isinstance(value, dict):
            raise ValueError(f"{self.name}/{path} must hold a JSON object")
        return value

    def open_buffer(self, path: str, size: int | None = None) -> pa.Buffer:
        """Map a local file into memory, or read a remote one; through `cache` that is mapped too.

        `size` is what the file should have, in bytes.
        """
        if self.local:
            return mapped(self._path(path))
        if self.cache is None or size is None:
            return pa.py_buffer(self.read(path))
        return self.cache.map(self.fs, self._path(path), size)

    def hashed_buffer(self, path: str) -> tuple[str, pa.Buffer]:
        """Read a whole file; return its SHA-256 and what is in it.

        A local one is read, and mapped then: what cannot be read is an error, not a signal.
        """
        if not self.local:
            data = self.read(path)
            return hashlib.sha256(data).hexdigest(), pa.py_buffer(data)
        with open(self._path(path), "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        return digest, self.open_buffer(path)

    def write(self, path: str, data: bytes) -> None:
        """Write a file that nobody else writes; it is durable on return."""
        if not self.local:
            self.fs.pipe_file(self._path(path), data)
            return
        self._place(path, data, os.replace)

    def create(self, path: str, data: bytes) -> bool:
        """Write a file only if it does not exist; False when another writer was first."""
        if not self.local:
            return self._create_remote(path, data)
        if os.path.exists(self._path(path)):
            return False  # also in a folder that cannot be written
        try:
            self._place(path, data, os.link)
        except FileExistsError:
            return False
        return True

    def _create_remote(self, path: str, data: bytes) -> bool:
        """Put a file if there is none; who was first is read from the store, not from the answer.

        An answer may be lost and the request repeated: then the file that is in the way is ours.
        """
        if not self._refuses and self.exists(path):
            return self.read(path) == data
        if self._refuses is not False:
            try:
                ours = self._put_if_absent(path, data)
                if ours and self._refuses is None:
                    self._refuses = self._refuses_a_second(path, data)
                return ours
            except _NoConditionsError:
                self._refuses = False
        self.fs.pipe_file(self._path(path), data)
        return True

    def _put_if_absent(self, path: str, data: bytes) -> bool:
        for attempt in range(_TRIES):
            try:
                self.fs.pipe_file(self._path(path), data, mode="create")
                return True
            except Exception as error:
                # Every file system has an error of its own for "there is one".
                if self.exists(path):
                    return self.read(path) == data
                number = getattr(error, "errno", None)
                if number in _NO_CONDITIONS:
                    raise _NoConditionsError from error
                if number != errno.EBUSY or attempt == _TRIES - 1:
                    raise
                time.sleep(0.1 * 2**attempt)  # two at the same moment: S3 answers 409 to one
        raise AssertionError("unreachable")

    def _refuses_a_second(self, path: str, data: bytes) -> bool | None:
        """Put a file that was just created once more, with the same bytes; None: nobody knows."""
        try:
            self.fs.pipe_file(self._path(path), data, mode="create")
        except (ConnectionError, TimeoutError):
            return None
        except Exception as error:
            return getattr(error, "errno", None) not in _NO_CONDITIONS
        return False

    def _look_again(self, path: str) -> None:
        """Forget what fsspec remembers of a file's folder: others write there."""
        self.fs.invalidate_cache(self._path(path).rpartition("/")[0])

    def claim(self, path: str, data: bytes) -> bool:
        """Do as `create` does with a small note: cheap, and not worth keeping through a crash."""
        if not self.local:
            return self.create(path, data)
        return self._note(path, data, "xb")

    def note(self, path: str, data: bytes) -> None:
        """Write a small note over what is there; who reads it at this moment may see half."""
        if not self.local:
            self.fs.pipe_file(self._path(path), data)
        else:
            self._note(path, data, "wb")

    def _note(self, path: str, data: bytes, mode: str) -> bool:
        target = Path(self._path(path))
        while True:
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                with target.open(mode) as file:
                    file.write(data)
                return True
            except FileNotFoundError:
                continue  # another has just removed the folder, which was empty
            except FileExistsError:
                if not target.is_file():
                    raise
                return False
            except OSError as error:
                if mode == "xb":  # an empty note would be one all the same
                    target.unlink(missing_ok=True)
                raise cannot_write(error, target, len(data)) from error

    def remove(self, path: str) -> None:
        """Remove a file if it is there; another writer may remove it at the same moment."""
        with contextlib.suppress(FileNotFoundError):
            self.fs.rm_file(self._path(path))

    def remove_empty(self, folder: str) -> None:
        """Remove a local folder if nothing is in it; elsewhere there are no empty folders."""
        if self.local:
            with contextlib.suppress(OSError):
                os.rmdir(self._path(folder))

    def _place(self, path: str, data: bytes, give_name: Callable[[str, str], None]) -> None:
        """Write under a temporary name, then give the file its own."""
        named = False
        while not named:
            temporary = self._write_temporary(path, data)
            try:
                give_name(temporary, self._path(path))
                named = True
            except FileExistsError:
                raise
            except FileNotFoundError:
                # Another run took it for a dead writer's while this one was paused: once more.
                continue
            except OSError as error:
                raise cannot_write(error, Path(self._path(path)), len(data)) from error
            finally:
                Path(temporary).unlink(missing_ok=True)
        self._sync_folder(path)

    def _write_temporary(self, path: str, data: bytes) -> str:
        target = Path(self._path(path))
        temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.tmp")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            with contextlib.suppress(OSError):  # the first error is the one to tell
                temporary.unlink(missing_ok=True)
            raise cannot_write(error, target, len(data)) from error
        return str(temporary)

    def _sync_folder(self, path: str) -> None:
        # Without this a crash may forget the new name, though not the bytes.
        folder = os.open(os.path.dirname(self._path(path)), os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
