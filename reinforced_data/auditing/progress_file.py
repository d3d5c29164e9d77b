"""What a long audit has read already, outside the store: an interrupted one goes on from there.

JSON lines: whose they are, then one for each shard in which nothing was wrong, with a digest of the
names, sizes and times of its files as they were before they were read. A shard counts as read
while that digest is the same, for a week; one in which something was wrong is read again. The file
is removed when the audit ends, so the next one reads everything. Where a server tells neither time
nor ETag of its files, or while another audit keeps the file, nothing is kept.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from reinforced_data.auditing.shard_check import ShardFindings
from reinforced_data.store.columns import Column
from reinforced_data.store.layout import Store
from reinforced_data.store.storage import Storage

# What object stores call the version of a file; of these, each has some.
_VERSIONS = ("ETag", "etag", "LastModified", "last_modified", "mtime", "updated", "created")

# Of the lines and of what they say was checked: one of another format counts as nothing read.
_FORMAT = 1
# A bit that has flipped since changes neither size nor time.
_BELIEVED_SECONDS = 7 * 24 * 3600.0


def usual_progress_file(store: str | Path) -> Path:
    """Where the command keeps it: in the user's cache folder, by the name of the store."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    name = hashlib.sha256(Storage(store).name.encode()).hexdigest()[:16]
    return Path(home, "clip-distill", "audits", f"{name}.jsonl")


class ProgressFile:
    """One audit's; `begin` opens it, `finished` removes it.

    Attributes:
        path: where it lies.
        read: how many shards are read, those of an earlier attempt included.
        read_before: how many of these in an earlier attempt.
    """

    def __init__(self, path: str | Path) -> None:
        """Nothing is opened yet."""
        self.path = Path(path)
        self.read = self.read_before = 0
        self._lock = threading.Lock()
        self._file: IO[str] | None = None
        self._versions: list[str] = []
        self._oldest = float("inf")
        self._begun = False
        self.failed = ""

    def begin(self, store: Store, columns: Sequence[Column]) -> dict[int, ShardFindings]:
        """Return what an earlier attempt found in the shards that have not changed since.

        Raises:
            ValueError: the file is something else, or another store's.
        """
        self.close()
        self._versions = _versions(store, columns)
        before = {}
        try:
            exists = self.path.is_file()
            lines = self.path.read_text(errors="replace").splitlines() if exists else []
            before = self._before(lines, store.name)
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._open(lines, store.name)
        except BlockingIOError:
            self.failed = f"another audit keeps {self.path}"
            self.close()
        except OSError as error:  # the audit is worth more than this
            self.failed = str(error)
            self.close()
        self.read = len(before)
        if not self._begun:  # a repair begins again, and has read these itself
            self.read_before = len(before)
        self._begun = True
        return before

    def _open(self, lines: Sequence[str], name: str) -> None:
        """Open the file for this audit alone; of another format it is begun anew."""
        file = self._file = self.path.open("a")
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not lines or _parsed(lines[0]).get("format") != _FORMAT:
            file.truncate(0)
            file.write(json.dumps({"audit_of": name, "format": _FORMAT}))
        # A line of somebody who was killed may have no end.
        file.write("\n")
        file.flush()

    def _before(self, lines: Sequence[str], name: str) -> dict[int, ShardFindings]:
        if lines and (whose := _parsed(lines[0]).get("audit_of")) != name:
            what = f"the progress of an audit of {whose}" if whose else "not an audit's progress"
            raise ValueError(f"{self.path} is {what}, not of {name}. Give another --progress-file")
        found = {}
        same_format = bool(lines) and _parsed(lines[0]).get("format") == _FORMAT
        for line in lines[1:] if same_format else ():
            values = _parsed(line)
            shard, read_at = values.get("shard", -1), values.pop("at", 0.0)
            known = 0 <= shard < len(self._versions) and self._versions[shard]
            recent = 0 <= time.time() - read_at < _BELIEVED_SECONDS
            if known and recent and values.pop("version", "") == known:
                found[shard] = ShardFindings.from_json(values)
                self._oldest = min(self._oldest, read_at)
        return found

    def add(self, found: ShardFindings) -> None:
        """Note a shard; any thread may call it."""
        version = self._versions[found.shard]
        with self._lock:
            if self._file is None or not version or any(unit.finding for unit in found.units):
                return
            try:
                self._file.write(
                    json.dumps({"version": version, "at": time.time(), **found.to_json()}) + "\n"
                )
                self._file.flush()
                self.read += 1
            except OSError as error:
                self.failed = str(error)
                # What it says would be believed by an audit after this one has ended.
                self._remove()
                self.close()

    def said(self) -> str:
        """How far the audit came, for who has stopped it."""
        if self.failed or not all(self._versions):
            why = self.failed or "the store's server does not say when a file was written"
            return f"nothing was changed, and the same command begins again: {why}"
        total = len(self._versions)
        return (
            f"nothing was changed; {self.read} of {total} shards are read, and the same command "
            f"goes on from there ({self.path})"
        )

    def note(self) -> str:
        """What the report of an audit that went on has to tell; "" otherwise."""
        if self.failed:
            return f"interrupted, this audit would have begun again: {self.failed}"
        if not self.read_before:
            return ""
        return (
            f"{self.read_before} of {len(self._versions)} shards were read by an earlier attempt "
            f"(from {time.strftime('%Y-%m-%d %H:%M', time.localtime(self._oldest))} on) and not "
            "again: size and time of their files are those of then"
        )

    def finished(self) -> None:
        """Remove it, if it is this audit's."""
        ours = self._begun and not self.failed
        self.close()
        if ours:
            self._remove()

    def _remove(self) -> None:
        with contextlib.suppress(OSError):
            self.path.unlink()

    def close(self) -> None:
        """Write no more."""
        file, self._file = self._file, None
        if file is not None:
            try:
                file.close()
            except OSError as error:
                self.failed = str(error)


def _parsed(line: str) -> dict:
    try:
        values = json.loads(line)
    except ValueError:
        return {}
    return values if isinstance(values, dict) else {}


def _versions(store: Store, columns: Sequence[Column]) -> list[str]:
    """A digest of what the file system says of each shard's files; "" where that is too little."""
    said = hashlib.sha256(store.storage.read("sources.json"))
    for name, version in _files(store.storage, "columns"):
        said.update(f"{name} {version}\n".encode())
    digests = [said.copy() for _ in range(store.num_shards)]
    unknown = set[int]()
    for column in columns:
        for folder in (f"commits/{column.name}", f"data/{column.name}"):
            for name, version in _files(store.storage, folder):
                shard = name.partition(".")[0]
                if not shard.isdigit() or int(shard) >= store.num_shards:
                    continue
                if not version:
                    unknown.add(int(shard))
                digests[int(shard)].update(f"{folder}/{name} {version}\n".encode())
    return ["" if n in unknown else digest.hexdigest() for n, digest in enumerate(digests)]


def _files(storage: Storage, folder: str) -> Iterator[tuple[str, str]]:
    """Name, and size and time, of each file of a folder, in the order of the names."""
    for info in sorted(storage.list_details(folder), key=lambda info: info["name"]):
        parts = [str(info[name]) for name in _VERSIONS if info.get(name)]
        version = f"{info['size']} {' '.join(parts)}" if parts else ""
        yield info["name"].rsplit("/", 1)[-1], version
