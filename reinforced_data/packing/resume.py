"""The folder that a pack is made in: finished shards are kept, the same call goes on behind them.

Beside OUT lies `.OUT.partial/`: `settings.json` (what was asked for, and of what), `shards/` (tars,
whole ones alone) and, per tar, a record of what was counted up to its end. A shard counts when its
record is there, and a record is written after its tar. When all is done `shards/` becomes OUT.
"""

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from reinforced_data.packing.deduplicating import DIGEST_BYTES, Merged
from reinforced_data.packing.tally import Tally
from reinforced_data.shard_writer import write_durably
from reinforced_data.store.write_errors import cannot_write

_SETTINGS = "settings.json"
_MERGED = "merged.json"
_TAR = "{:05d}.tar"
_RECORD = "{:05d}.json"


class Unfinished:
    """A pack under way; `open_unfinished` makes one.

    Attributes:
        shards: where the tars go.
        done: how many are finished.
        tally: what was counted up to the end of the last of them.
    """

    def __init__(self, folder: Path) -> None:
        """Read the records; what belongs to no finished shard is removed."""
        self._folder = folder
        self.shards = folder / "shards"
        self.shards.mkdir(exist_ok=True)
        self.done = 0
        self.tally = Tally()
        while self._is_done(self.done):
            data = (folder / _RECORD.format(self.done)).read_bytes()
            self.tally.add(Tally.from_json(data, DIGEST_BYTES))
            self.done += 1
        kept = {_TAR.format(shard) for shard in range(self.done)}
        for path in self.shards.iterdir():
            if path.name not in kept:
                path.unlink()

    def _is_done(self, shard: int) -> bool:
        tar = self.shards / _TAR.format(shard)
        return tar.is_file() and (self._folder / _RECORD.format(shard)).is_file()

    @property
    def next_shard(self) -> Path:
        """The tar that is to be written next."""
        return self.shards / _TAR.format(self.done)

    def finish_shard(self, counted: Tally) -> None:
        """Keep the shard just written, and what was counted since the one before."""
        write_durably(self._folder / _RECORD.format(self.done), counted.to_json())
        self.tally.add(counted)
        self.done += 1

    def merged(self) -> Merged | None:
        """What an earlier call found out about copies, if it came to its end."""
        path = self._folder / _MERGED
        return Merged.from_file(path) if path.is_file() else None

    def keep_merged(self, merged: Merged) -> None:
        """Keep what was found out about copies."""
        write_durably(self._folder / _MERGED, merged.to_json())

    @property
    def worth_keeping(self) -> bool:
        """Whether there is anything to go on from."""
        return self.done > 0 or (self._folder / _MERGED).is_file()


@contextmanager
def open_unfinished(out: Path, settings: Mapping[str, Any]) -> Iterator[Unfinished]:
    """Begin a pack, or go on with one; it becomes `out` when the block ends well.

    When the block does not, what was finished is kept for the next call, and `out` is untouched.

    Raises:
        ValueError: a pack with other settings was begun there, or one is running.
        FileExistsError: `out` holds something, also when another process was faster.
    """
    folder = out.parent / f".{out.name}.partial"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(error, folder, 0) from error
    with _lock(folder, out):
        _check_settings(folder, out, settings)
        unfinished = Unfinished(folder)
        try:
            yield unfinished
            if out.exists() and (not out.is_dir() or any(out.iterdir())):
                raise FileExistsError(f"{out} already holds something; nothing was written there")
            os.rename(unfinished.shards, out)
        except BaseException:
            if not unfinished.worth_keeping:
                shutil.rmtree(folder, ignore_errors=True)
            raise
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _lock(folder: Path, out: Path) -> Iterator[None]:
    """Hold the folder; the system lets go of it however this process ends."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(
                f"another process is packing into {out}; wait for it, or give another folder"
            ) from error
        yield
    finally:
        os.close(handle)


def _check_settings(folder: Path, out: Path, settings: Mapping[str, Any]) -> None:
    path = folder / _SETTINGS
    wanted = json.loads(json.dumps(settings, default=str))
    begun: dict[str, Any] | None = None
    if path.is_file():
        with contextlib.suppress(ValueError):
            begun = json.loads(path.read_text(encoding="utf-8"))
    if begun is None:
        # Killed before its first line was written: nothing to go on from.
        for leftover in folder.glob("*.json"):
            leftover.unlink()
        write_durably(path, json.dumps(wanted).encode())
        return
    # A setting that an older version did not know is as good as None.
    names = [name for name in begun | wanted if begun.get(name) != wanted.get(name)]
    if names:
        changes = [f"{name} was {begun.get(name)!r}, now {wanted.get(name)!r}" for name in names]
        raise ValueError(
            f"{folder} holds an unfinished pack of {out} that was begun differently: "
            f"{'; '.join(changes)}. Give the same settings and files to go on, or remove that "
            "folder to begin again"
        )
