"""The part of an audit that looks at the source: are the pictures those that were reinforced?

Pictures are read where the index says they are and compared by SHA-256. Where one differs, its
shard is searched by key, to tell a shard that was packed anew from pictures that were resized or
encoded again: how far such a picture's embedding has moved is for replaying.py to say.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from reinforced_data.auditing.files import FileFindings
from reinforced_data.auditing.findings import Finding
from reinforced_data.locations import listed_sizes, locate
from reinforced_data.source import BrokenShard, Sample, UnreadableImage, decode_image, scan_shard
from reinforced_data.store.column_rows import IndexRows
from reinforced_data.store.columns import Column
from reinforced_data.store.layout import Store

Place = tuple[int, int]
"""Shard and row."""

# A search reads a whole shard.
MOST_SEARCHED = 4


@dataclass(frozen=True, kw_only=True)
class ChangedPicture:
    """A picture that is not the one that was reinforced.

    Attributes:
        key: the sample's.
        how: in a few words.
        now: its bytes as they are, b"" when there are none.
    """

    key: str
    how: str
    now: bytes = b""


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """Sampled pictures of the source, as they were reinforced, and those that are so no more."""

    same: dict[Place, bytes]
    changed: dict[Place, ChangedPicture]
    findings: list[Finding]


def check_sources(store: Store) -> tuple[set[int], list[Finding]]:
    """Return the source shards that are there, and say which are not or have another size."""
    present, findings = set(), []
    listed = _listed(store.sources)
    for shard, (path, size) in enumerate(zip(store.sources, store.source_bytes, strict=True)):
        try:
            fs, inner = locate(path)
            actual = listed[inner] if inner in listed else int(fs.size(inner) or 0)
        except (OSError, ValueError) as error:
            said = (
                f"source shard {shard}, {path}, cannot be reached ({type(error).__name__}): a "
                "store holds no images. Put the shard back, or move it along with the store"
            )
            findings.append(Finding(kind="missing-source", text=said, shards=(shard,)))
            continue
        present.add(shard)
        if actual != size:
            said = (
                f"source shard {shard}, {path}, has {actual} bytes, and had {size} when the store "
                "was made: it was rewritten. Put the old file back, or reinforce into a new store"
            )
            findings.append(Finding(kind="changed-source", text=said, shards=(shard,)))
    return present, findings


def _listed(paths: Sequence[str]) -> dict[str, int]:
    """What listings say; where they cannot be had, each shard is asked for and named."""
    try:
        return listed_sizes(paths)
    except (OSError, ValueError):
        return {}


def choose_rows(
    found: FileFindings, shards: set[int], samples: int, seed: int
) -> dict[int, list[int]]:
    """Draw `samples` usable rows of these shards: shard -> rows, sorted."""
    index = found.of_kind("index")
    sound = sorted(shards & (index[0].sound if index else set()))
    ends = np.cumsum([len(found.usable[shard]) for shard in sound])
    total = int(ends[-1]) if len(ends) else 0
    draw = np.random.default_rng(seed).choice(total, size=min(samples, total), replace=False)
    chosen: dict[int, list[int]] = defaultdict(list)
    for number in np.sort(draw):
        place = int(np.searchsorted(ends, number, side="right"))
        usable = found.usable[sound[place]]
        chosen[sound[place]].append(int(usable.numbers()[number - (ends[place] - len(usable))]))
    return dict(chosen)


def read_pictures(
    store: Store, index: Column, chosen: dict[int, list[int]], *, search: bool = True
) -> Pictures:
    """Read the chosen pictures, compare them with the index, and search for those that differ."""
    pictures = Pictures(same={}, changed={}, findings=[])
    searched = 0
    for shard, rows in chosen.items():
        batch, path = store.rows(index, shard), store.sources[shard]
        entries = IndexRows(batch)
        try:
            found = _read_ranges(path, [(entries.offsets[row], entries.sizes[row]) for row in rows])
        except OSError as error:
            said = f"source shard {shard}, {path}, cannot be read: {error}"
            pictures.findings.append(Finding(kind="missing-source", text=said, shards=(shard,)))
            continue
        wrong = []
        for row, data in zip(rows, found, strict=True):
            if hashlib.sha256(data).digest() == entries.sha256[row]:
                pictures.same[shard, row] = data
            else:
                wrong.append(row)
        if not wrong or not search:
            continue
        searched += 1
        now = (
            _search(path, {entries.keys[row] for row in wrong}) if searched <= MOST_SEARCHED else {}
        )
        for row in wrong:
            size = (batch["width"][row].as_py(), batch["height"][row].as_py())
            key, digest = entries.keys[row], entries.sha256[row] or b""
            looked = searched <= MOST_SEARCHED
            pictures.changed[shard, row] = (
                _compare(key, digest, size, now.get(key))
                if looked
                else ChangedPicture(key=key, how="other bytes")
            )
    return pictures


def _read_ranges(path: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
    fs, inner = locate(path)
    found = []
    with fs.open(inner, "rb") as file:
        for offset, size in ranges:
            file.seek(offset)
            found.append(file.read(size))
    return found


def _search(path: str, keys: set[str]) -> dict[str, Sample]:
    try:
        return {s.key: s for s in scan_shard(path) if s.key in keys and s.image}
    except (BrokenShard, OSError):
        return {}


def _compare(
    key: str, digest: bytes, was: tuple[int, int], sample: Sample | None
) -> ChangedPicture:
    if sample is None:
        return ChangedPicture(key=key, how="no longer in the shard")
    if hashlib.sha256(sample.image).digest() == digest:
        return ChangedPicture(key=key, how="at another place of the shard", now=sample.image)
    try:
        size = decode_image(sample.image).size
    except UnreadableImage as error:
        return ChangedPicture(key=key, how=f"broken ({error.reason})")
    if size != was:
        how = f"resized, {was[0]} x {was[1]} to {size[0]} x {size[1]}"
        return ChangedPicture(key=key, how=how, now=sample.image)
    return ChangedPicture(
        key=key, how="encoded again or edited, of the same size", now=sample.image
    )


def changed_findings(store: Store, pictures: Pictures, moved: dict[Place, float]) -> list[Finding]:
    """Say per shard what has become of its pictures.

    Args:
        store: whose source it is.
        pictures: what was read.
        moved: how far the embeddings of changed pictures have moved, as replaying.py measures.
    """
    findings = []
    for shard in sorted({shard for shard, _ in pictures.changed}):
        changed = {place: p for place, p in pictures.changed.items() if place[0] == shard}
        total = len(changed) + sum(place[0] == shard for place in pictures.same)
        hows = Counter(picture.how for picture in changed.values()).most_common(3)
        distances = [moved[place] for place in changed if place in moved]
        said = (
            f"source shard {shard}, {store.sources[shard]}: {len(changed)} of {total} sampled "
            f"images are not the ones that were reinforced, {next(iter(changed.values())).key!r} "
            f"first: {'; '.join(f'{count} {how}' for how, count in hows)}."
            f"{_distance(distances)} Training refuses such images. Put the old shard back, or "
            "reinforce into a new store"
        )
        findings.append(Finding(kind="changed-images", text=said, shards=(shard,)))
    return findings


def _distance(errors: list[float]) -> str:
    if not errors:
        return ""
    middle = float(np.median(errors))
    what = "the same pictures, roughly" if middle < 0.5 else "other pictures"
    return (
        f" Embedded again they lie {middle:.2f} (median) of the distance between two samples from "
        f"the stored rows: {what}."
    )
