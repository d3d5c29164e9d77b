"""Where each published DataCompDR sample lies, by its uid: 28 bytes a sample in memory.

Their order is not that of anybody's downloaded pictures, so samples are looked up one at a time.
"""

import hashlib
import json
import tarfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from reinforced_data.datacompdr.members import MAX_BYTES, Unusable
from reinforced_data.shard_reader import BrokenShard, member_groups, open_binary

_ENTRY = np.dtype([("uid", "S16"), ("shard", "<u4"), ("offset", "<u8")])
_OPEN_SHARDS = 16
_EXTENSIONS = ("syn.json", "paug.json", "json", "npz", "pth.gz")


def json_fields(member: bytes | None) -> dict[str, Any]:
    """The fields of a sample's JSON; none where there is none that can be read."""
    try:
        fields = json.loads(member or b"{}")
    except (ValueError, RecursionError):
        return {}
    return fields if isinstance(fields, dict) else {}


def uid_in(fields: Mapping[str, Any], key: str) -> str:
    """A sample's uid: what its JSON says, else its key."""
    uid = fields.get("uid")
    return uid if isinstance(uid, str) and uid else key


class PublishedIndex:
    """Finds published samples.

    Attributes:
        failed: shard -> why it could not be read.
    """

    def __init__(self, shards: Sequence[str], on_shard: Callable[[], None]) -> None:
        """Go through the headers of all shards; `on_shard` is called after each."""
        self._shards = list(shards)
        self._files: OrderedDict[int, Any] = OrderedDict()
        self.failed: dict[str, str] = {}
        parts = []
        for number, shard in enumerate(self._shards):
            try:
                entries = [(_digest(uid), number, offset) for uid, offset in _samples(shard)]
                parts.append(np.array(entries, _ENTRY))
            except BrokenShard as error:
                self.failed[shard] = str(error)
            on_shard()
        every = np.concatenate([np.empty(0, _ENTRY), *parts])
        # The first of equal ones counts.
        self._entries = every[np.argsort(every["uid"], kind="stable")]

    def __len__(self) -> int:
        """How many samples there are."""
        return len(self._entries)

    def members(self, uid: str) -> Mapping[str, bytes] | None:
        """Read a sample's members by extension, or None when it was not published.

        Raises:
            Unusable: a member is larger than any that was published, or the shard was cut since.
        """
        wanted = np.frombuffer(_digest(uid), "S16")[0]
        uids = self._entries["uid"]
        place = int(np.searchsorted(uids, wanted))
        if place == len(uids) or uids[place] != wanted:
            return None
        entry = self._entries[place]
        file = self._file(int(entry["shard"]))
        try:
            return _read_group(file, int(entry["offset"]))
        except BrokenShard as error:
            raise Unusable("broken-shard", str(error)) from error

    def _file(self, shard: int) -> Any:
        file = self._files.pop(shard, None) or open_binary(self._shards[shard])
        self._files[shard] = file
        if len(self._files) > _OPEN_SHARDS:
            self._files.popitem(last=False)[1].close()
        return file

    def close(self) -> None:
        """Close the shards."""
        for file in self._files.values():
            file.close()
        self._files.clear()


def _samples(shard: str) -> Iterator[tuple[str, int]]:
    """Yield uid and offset of each sample that has a published member."""
    with open_binary(shard) as file:
        for key, members, problem in member_groups(shard, file):
            tars = {name: m for name, m in members.items() if isinstance(m, tarfile.TarInfo)}
            if problem is None and "paug.json" in tars:
                about = tars.get("json")
                readable = about is not None and about.size <= MAX_BYTES
                uid = uid_in(json_fields(_read(file, about) if readable else None), key)
                yield uid, min(member.offset for member in tars.values())


def _read_group(file: Any, offset: int) -> dict[str, bytes]:
    file.seek(offset)
    found: dict[str, bytes] = {}
    groups = member_groups("", file, start=offset)
    _, members, _ = next(groups)
    for name in _EXTENSIONS:
        data = _read(file, members.get(name))
        if data is not None:
            found[name] = data
    return found


def _read(file: Any, member: tarfile.TarInfo | str | None) -> bytes | None:
    if not isinstance(member, tarfile.TarInfo):
        return None
    if member.size > MAX_BYTES:
        raise Unusable("embeddings-too-large", f"a member of {member.size} bytes")
    file.seek(member.offset_data)
    return file.read(member.size)


def _digest(uid: str) -> bytes:
    return hashlib.sha256(uid.encode(errors="replace")).digest()[:16]
