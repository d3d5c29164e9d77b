"""Whether a store fits where it is to go: bytes and, where the file system counts them, files."""

import os
import shutil
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from reinforced_data.store.storage import Storage


@dataclass(frozen=True, kw_only=True)
class DiskRoom:
    """What a folder offers.

    Attributes:
        out: the folder, which need not exist.
        free_bytes, free_files: what this user may still write; None where nobody says (an object
            store, a file system without a limit on files).
        present_bytes, present_files: of the store's own columns, which are there already.
    """

    out: str
    free_bytes: int | None
    free_files: int | None
    present_bytes: int = 0
    present_files: int = 0

    def refusal(self, needed_bytes: float | int, needed_files: int) -> str | None:
        """Say why so much does not fit, or None."""
        bytes_left = max(0.0, needed_bytes - self.present_bytes)
        files_left = max(0, needed_files - self.present_files)
        advice = "Give another folder, fewer views, or a smaller codec (int4 halves int8, pq less)"
        if self.free_bytes is not None and bytes_left > self.free_bytes:
            return (
                f"{self.out} has {self.free_bytes / 1e9:,.1f} GB free and the store needs up to "
                f"{bytes_left / 1e9:,.1f} GB more. {advice}"
            )
        if self.free_files is not None and files_left > self.free_files:
            return (
                f"the file system of {self.out} can hold {self.free_files:,} more files and the "
                f"store needs {files_left:,}. Pack larger shards, or give another folder"
            )
        return None


def disk_room(out: str | Path, columns: Collection[str]) -> DiskRoom:
    """Look at a folder; `columns` are those of the store that count as present."""
    storage = Storage(out)
    if not storage.local:
        return DiskRoom(out=storage.name, free_bytes=None, free_files=None)
    folder = Path(os.path.abspath(storage.root))
    there = next(path for path in (folder, *folder.parents) if path.is_dir())
    files = os.statvfs(there)
    sizes = [
        entry.stat().st_size
        for part in ("data", "commits")
        for column in columns
        if (folder / part / column).is_dir()
        for entry in os.scandir(folder / part / column)
    ]
    return DiskRoom(
        out=storage.name,
        free_bytes=shutil.disk_usage(there).free,
        free_files=files.f_favail if files.f_files else None,
        present_bytes=sum(sizes),
        present_files=len(sizes),
    )
