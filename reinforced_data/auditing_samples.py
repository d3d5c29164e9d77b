"""The part of an audit that looks at samples: are the pictures the same, and do teachers agree?

A teacher embeds sampled views and captions again; the cosine to the stored row tells whether rows
are shifted, pixels are rendered differently, or another model was used.
"""

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import fsspec
import numpy as np

from reinforced_data.auditing_files import ColumnFindings, FileFindings
from reinforced_data.column_codecs import codec_of
from reinforced_data.column_rows import ImageRows, IndexRows, TextRows, ViewRows
from reinforced_data.columns import Column, library_versions
from reinforced_data.embedding import ImageEmbedder, embed_texts
from reinforced_data.layout import Store
from reinforced_data.source import UnreadableImage, decode_image
from reinforced_data.views import render_view
from teachers import ClipModel

_BATCH = 32


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """A live teacher against its stored rows.

    Attributes:
        teacher: its name.
        samples: how many rows were embedded again.
        minimum: the lowest cosine.
        mean: the mean cosine.
        below: how many are below the bound.
    """

    teacher: str
    samples: int
    minimum: float
    mean: float
    below: int


def choose_rows(found: FileFindings, shards: set[int], samples: int, seed: int) -> dict[int, list]:
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
        chosen[sound[place]].append(int(usable[number - (ends[place] - len(usable))]))
    return dict(chosen)


def read_members(
    store: Store, index: Column, chosen: dict[int, list[int]]
) -> tuple[dict[tuple[int, int], bytes], list[str]]:
    """Read the chosen images from the source; also say which ones have changed."""
    images, problems = {}, []
    for shard, rows in chosen.items():
        entries, path = IndexRows(store.rows(index, shard)), store.sources[shard]
        try:
            members = _read_ranges(
                path, [(entries.offsets[row], entries.sizes[row]) for row in rows]
            )
        except OSError as error:
            problems.append(f"source shard {shard}, {path}, cannot be read: {error}")
            continue
        for row, data in zip(rows, members, strict=True):
            if hashlib.sha256(data).digest() == entries.sha256[row]:
                images[shard, row] = data
                continue
            problems.append(
                f"source shard {shard}, {path}: the image of sample "
                f"{entries.keys[row]!r} (byte {entries.offsets[row]}) is not the one that was "
                "reinforced; training refuses it. Put the old shard back, or reinforce into "
                "a new store"
            )
    return images, problems


def _read_ranges(path: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
    fs, inner = fsspec.core.url_to_fs(path)
    found = []
    with fs.open(inner, "rb") as file:
        for offset, size in ranges:
            file.seek(offset)
            found.append(file.read(size))
    return found


def match_teachers(
    found: FileFindings, teachers: Sequence[ClipModel]
) -> tuple[list[tuple[ClipModel, ColumnFindings]], list[str]]:
    """Pair teachers with their columns by fingerprint; say which ones have none."""
    pairs, problems = [], []
    stored = [*found.of_kind("image_embeddings"), *found.of_kind("text_embeddings")]
    known = {
        f"{entry.column.identity['teacher']} ({entry.column.identity['teacher_fingerprint'][:12]})"
        for entry in stored
    }
    for teacher in teachers:
        fingerprint = getattr(teacher, "fingerprint", None)
        if fingerprint is None:
            raise ValueError(
                f"{teacher.name} is a {type(teacher).__name__} without a fingerprint; teachers "
                "come from load_teacher(...), which also takes a ready module"
            )
        own = [e for e in stored if e.column.identity["teacher_fingerprint"] == fingerprint]
        pairs += [(teacher, entry) for entry in own]
        if not own:
            problems.append(
                f"the teacher {teacher.name} ({fingerprint[:12]}) has written nothing in this "
                f"store; its teachers are {', '.join(sorted(known)) or 'none'}. Weights, "
                "precision, preprocessing and tokenizer must be those of then"
            )
    return pairs, problems


def compare(
    store: Store,
    found: FileFindings,
    teacher: ClipModel,
    entry: ColumnFindings,
    images: dict[tuple[int, int], bytes],
    min_cosine: float,
) -> tuple[Agreement | None, list[str]]:
    """Embed the samples again and compare them with one column's rows."""
    parents = {other.column.name: other for other in found.columns}
    parent = parents.get(entry.column.identity["hangs_on"])
    sound = entry.sound & (parent.sound if parent else set())
    chosen = {place: data for place, data in images.items() if place[0] in sound}
    if parent is None or not chosen:
        return None, []
    embed = _images if entry.column.kind == "image_embeddings" else _texts
    places, live, values = embed(store, teacher, entry.column, parent.column, chosen)
    if not places:
        return None, []
    # What the codec loses is no disagreement: the live rows go through it as well.
    codec, dim = codec_of(store.storage, entry.column), teacher.embed_dim
    stored = codec.unit_rows(values, dim)
    live[~np.isfinite(live).all(1)] = 0.0
    live = codec.unit_rows(codec.encode(live), dim)
    cosines = np.nan_to_num((live * stored).sum(1), nan=-1.0)
    below = int((cosines < min_cosine).sum())
    agreement = Agreement(
        teacher=teacher.name,
        samples=len(cosines),
        minimum=float(cosines.min()),
        mean=float(cosines.mean()),
        below=below,
    )
    if not below:
        return agreement, []
    shard, row = places[int(cosines.argmin())]
    return agreement, [
        f"column {entry.column.name}: {below} of {len(cosines)} rows that {teacher.name} embedded "
        f"again have a cosine below {min_cosine} (lowest {cosines.min():.4f}: shard {shard}, row "
        f"{row}). Either rows are not where they belong, or pixels or weights are not computed as "
        f"they were{_version_changes(entry.column)}. Remove the column and reinforce again"
    ]


Compared = tuple[list[tuple[int, int]], np.ndarray, np.ndarray]


def _images(
    store: Store,
    teacher: ClipModel,
    column: Column,
    views: Column,
    chosen: dict[tuple[int, int], bytes],
) -> Compared:
    """One view of each sample, another one from row to row."""
    embedder, places, stored = ImageEmbedder(teacher, _BATCH), [], []
    opened: dict[int, tuple[ViewRows, ImageRows]] = {}
    for (shard, row), data in chosen.items():
        if shard not in opened:
            view_rows = ViewRows(views, store.rows(views, shard))
            rows = ImageRows(column, store.rows(column, shard), view_rows.num_views)
            opened = {shard: (view_rows, rows)}
        view_rows, rows = opened[shard]
        if not (rows.valid[row] and view_rows.valid[row]):
            continue
        try:
            image = decode_image(data)
        except UnreadableImage:
            continue
        number = row % view_rows.num_views
        embedder.add(render_view(image, view_rows.view(row, number), teacher.preprocess))
        stored.append(rows.encoded(row, number))
        places.append((shard, row))
    return places, embedder.finish().unit, np.array(stored)


def _texts(
    store: Store,
    teacher: ClipModel,
    column: Column,
    captions: Column,
    chosen: dict[tuple[int, int], bytes],
) -> Compared:
    """One caption of each sample."""
    texts, places, stored = [], [], []
    opened: dict[int, tuple[list[list[str]], TextRows]] = {}
    for shard, row in chosen:
        if shard not in opened:
            lists = store.rows(captions, shard)["captions"].to_pylist()
            opened = {shard: (lists, TextRows(column, store.rows(column, shard)))}
        lists, rows = opened[shard]
        if not rows.valid[row] or not lists[row]:
            continue
        number = row % len(lists[row])
        texts.append(lists[row][number])
        stored.append(rows.encoded(row, number))
        places.append((shard, row))
    return places, embed_texts(teacher, texts, _BATCH).unit, np.array(stored)


def _version_changes(column: Column) -> str:
    """Name the libraries that are not those the column was written with."""
    then, now = column.facts.get("versions", {}), library_versions()
    changed = [
        f"{name} {then[name]} -> {now.get(name)}" for name in then if then[name] != now.get(name)
    ]
    return f" ({', '.join(changed)})" if changed else ""
