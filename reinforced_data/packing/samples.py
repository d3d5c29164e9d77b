"""One row of an input to one sample of a shard, or to a count with a reason."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from reinforced_data.packing.deduplicating import Deduplicate, Merged, all_captions, digest_of
from reinforced_data.packing.listing import Listed
from reinforced_data.packing.resizing import Resize, shrink
from reinforced_data.packing.tally import Tally
from reinforced_data.sample_texts import MAX_TEXT_BYTES
from reinforced_data.shard_writer import ShardSample
from reinforced_data.source import UnreadableImage, decode_image, image_size


@dataclass(frozen=True, kw_only=True)
class Looked:
    """A row whose picture was read.

    Attributes:
        row: the row.
        data: the picture as it is to be packed.
        about: the sample's JSON.
        digest: of the picture as the input has it, where copies are dropped.
        shrunk: whether it was encoded anew.
        problem: why it cannot be used.
        copy: whether it was merged into another row.
    """

    row: Listed
    data: bytes = b""
    about: bytes = b""
    digest: bytes = b""
    shrunk: bool = False
    problem: str | None = None
    copy: bool = False


@dataclass(kw_only=True)
class Packer:
    """What becomes of a row; `look` runs in threads, `next_sample` in one.

    Attributes:
        resize, quality, max_pixels, verify, deduplicate: see `pack`.
        merged: what is known of copies, where they are merged.
        seen: digests of the pictures packed so far, where copies are dropped.
    """

    resize: Resize | None
    quality: int
    max_pixels: int
    verify: bool
    deduplicate: Deduplicate
    merged: Merged = field(default_factory=Merged)
    seen: set[bytes] = field(default_factory=set)

    def look(self, number: int, row: Listed) -> Looked:
        """Read a row's picture, shrink it if need be, and say what is wrong with it."""
        if row.problem is not None or row.read is None:
            return Looked(row=row, problem=row.problem or "row has no picture")
        if not row.captions and row.label is None:
            return Looked(row=row, problem="no caption")
        if number in self.merged.copies:
            return Looked(row=row, copy=True)
        about, problem = self._about(number, row)
        if problem is not None:
            return Looked(row=row, problem=problem)
        try:
            data = row.read()
            packed = self._packed(data)
        except UnreadableImage as error:
            return Looked(row=row, problem=error.reason)
        except (OSError, ValueError) as error:
            missing = isinstance(error, FileNotFoundError | NotADirectoryError)
            return Looked(row=row, problem="missing file" if missing else "unreadable file")
        digest = digest_of(data) if self.deduplicate == "drop" else b""
        return Looked(row=row, data=packed, about=about, digest=digest, shrunk=packed is not data)

    def _packed(self, data: bytes) -> bytes:
        packed = data
        if self.resize is None:
            image_size(data, max_pixels=self.max_pixels)
        else:
            packed = shrink(data, self.resize, quality=self.quality, max_pixels=self.max_pixels)
        if self.verify and packed is data:
            decode_image(data, max_pixels=self.max_pixels)
        return packed

    def _about(self, number: int, row: Listed) -> tuple[bytes, str | None]:
        """The sample's JSON, or why readers would refuse it."""
        captions = all_captions(row.captions, self.merged.captions.get(number, ()))
        name = row.name.encode(errors="replace").decode()
        about: dict[str, Any] = {"captions": captions, "path": name}
        if row.label is not None:
            about["label"] = row.label
        try:
            data = json.dumps(about, ensure_ascii=False).encode()
        except UnicodeEncodeError:  # half a surrogate pair, which JSON can spell
            return b"", "bad-text"
        return data, "text-too-large" if len(data) > MAX_TEXT_BYTES else None

    def next_sample(
        self, rows: Iterator[Looked], counted: Tally, before: int
    ) -> ShardSample | None:
        """Count rows up to one that becomes a sample; None at the end.

        Args:
            rows: in order.
            counted: of the shard under way.
            before: how many samples the shards before it have.
        """
        for looked in rows:
            counted.rows += 1
            if looked.problem is not None:
                counted.skip(looked.row.name, looked.problem)
            elif looked.copy or (looked.digest and looked.digest in self.seen):
                counted.copies += 1
            else:
                return self._sample(looked, counted, before)
        return None

    def _sample(self, looked: Looked, counted: Tally, before: int) -> ShardSample:
        if looked.digest:
            self.seen.add(looked.digest)
            counted.digests.add(looked.digest)
        if looked.row.label is not None:
            counted.labels.add(looked.row.label)
        key = f"{before + counted.samples:08d}"
        counted.samples += 1
        counted.shrunk += looked.shrunk
        return {"__key__": key, _extension(looked.data): looked.data, "json": looked.about}


def _extension(data: bytes) -> str:
    """Name the format by the bytes, since files are often named wrongly."""
    if data[:3] == b"\xff\xd8\xff":
        return "jpg"
    return "png" if data[:4] == b"\x89PNG" else "webp"
