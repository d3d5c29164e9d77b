"""The part of an audit that asks live teachers: sampled views and texts are embedded once more.

What counts is the distance to the stored row *relative to how far different samples are apart*: in
a narrow cone, where real and above all untrained towers keep their rows, a wrong row has a cosine
of 0.9 or 0.99999 too. 0 is equal, 1 is as far as any other sample. The live row goes through the
column's codec as well, and what the codec loses is added to the tolerance.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

from reinforced_data.auditing.files import ColumnFindings
from reinforced_data.auditing.sources import Place
from reinforced_data.codecs.codec import Codec
from reinforced_data.codecs.of_columns import codec_of
from reinforced_data.embedding import ImageEmbedder, embed_texts
from reinforced_data.pictures import Picture
from reinforced_data.source import UnreadableImage
from reinforced_data.store.column_rows import ImageRows, TextRows, ViewRows
from reinforced_data.store.columns import Column
from reinforced_data.store.layout import Store
from reinforced_data.views import View, render_view
from teachers import ClipModel, Preprocess

Renderer = Callable[[Picture, View, Preprocess], np.ndarray]

_BATCH = 32
_SPREAD_ROWS = 512
# Rows that a codec cannot tell apart still must not be somebody else's.
_LARGEST_TOLERANCE = 0.5
_TINY = 1e-7


class StoredShard:
    """A shard's rows of one embeddings column, decoded when asked for, and what they hang on."""

    def __init__(self, store: Store, column: Column, parent: Column, shard: int) -> None:
        """Map the files."""
        self._codec = codec_of(store.storage, column)
        self._dim = int(column.facts["teacher"]["embed_dim"])
        batch = store.rows(column, shard)
        self.views: ViewRows | None = None
        self.texts: list[list[str] | None] = []
        if column.kind == "image_embeddings":
            self.views = ViewRows(parent, store.rows(parent, shard))
            self._rows = ImageRows(column, batch, self.views.num_views)
        else:
            self.texts = store.rows(parent, shard)["captions"].to_pylist()
            self._rows = TextRows(column, batch)
        self.valid: np.ndarray = np.flatnonzero(self._rows.valid)

    def num_items(self, row: int) -> int:
        """How many views, or texts, a row has."""
        if isinstance(self._rows, TextRows):
            return min(len(self.texts[row] or ()), self._rows.count(row))
        return self.views.num_views if self.views else 0

    def having(self, item: int) -> np.ndarray:
        """The valid rows that have this view, or text."""
        rows = self._rows
        if isinstance(rows, TextRows):
            return np.array([row for row in self.valid if rows.count(row) > item], dtype=int)
        return self.valid

    def unit(self, rows: Sequence[int] | np.ndarray, item: int) -> Float32[np.ndarray, "n d"]:
        """Decode one view, or text, of these rows."""
        if not len(rows):
            return np.empty((0, self._dim), np.float32)
        encoded = self._rows.encoded(np.asarray(rows), item)
        return np.nan_to_num(self._codec.unit_rows(encoded, self._dim))


@dataclass(frozen=True, kw_only=True)
class Replay:
    """Samples of a column, embedded again.

    Attributes:
        teacher: who embedded.
        entry: the column.
        parent: what it hangs on.
        codec: of the column.
        places: shard and row of each.
        items: which view, or text, of each.
        live: the rows as they are now, `(n, d)`; not through the codec.
        stored: the rows in the store.
        spread: the distance of two different samples, root mean square.
        errors: the distance of live and stored, in units of `spread`.
        tolerance: the largest error that rounding and the codec may cause.
    """

    teacher: ClipModel
    entry: ColumnFindings
    parent: Column
    codec: Codec
    places: list[Place]
    items: list[int]
    live: Float32[np.ndarray, "n d"]
    stored: Float32[np.ndarray, "n d"]
    spread: float
    errors: np.ndarray
    tolerance: float

    def errors_of(self, live: np.ndarray, stored: np.ndarray) -> np.ndarray:
        """Measure other rows by the same yardstick."""
        return _errors(self.codec, live, stored, self.spread)


def replay(
    store: Store,
    teacher: ClipModel,
    entry: ColumnFindings,
    parent: Column,
    images: dict[Place, bytes],
    *,
    max_error: float,
) -> Replay | None:
    """Embed one view, or text, of each of these samples again; None when there is none.

    Args:
        store: the store.
        teacher: whose column it is, or may be.
        entry: the column.
        parent: the views or captions that it hangs on.
        images: the pictures of the samples.
        max_error: the tolerance of a codec that loses nothing.
    """
    chosen = _Chosen()
    for shard in sorted({shard for shard, _ in images}):
        opened = StoredShard(store, entry.column, parent, shard)
        chosen.add(opened, shard, {row: data for (n, row), data in images.items() if n == shard})
    if not chosen.places:
        return None
    is_image = entry.column.kind == "image_embeddings"
    live = embed_views(teacher, chosen.wanted) if is_image else embed_strings(teacher, chosen.texts)
    codec = codec_of(store.storage, entry.column)
    spread = _spread(np.concatenate(chosen.others)[:_SPREAD_ROWS])
    rows = np.array(chosen.stored)
    lost = np.sqrt(np.mean(_distances(_through(codec, live), live) ** 2)) / spread
    return Replay(
        teacher=teacher,
        entry=entry,
        parent=parent,
        codec=codec,
        places=chosen.places,
        items=chosen.items,
        live=live,
        stored=rows,
        spread=spread,
        errors=_errors(codec, live, rows, spread),
        tolerance=float(min(max_error + lost, max(_LARGEST_TOLERANCE, max_error))),
    )


class _Chosen:
    """What is embedded again, and what is stored for it."""

    def __init__(self) -> None:
        self.places: list[Place] = []
        self.items: list[int] = []
        self.stored: list[np.ndarray] = []
        self.wanted: list[tuple[bytes, View]] = []
        self.texts: list[str] = []
        self.others: list[np.ndarray] = []

    def add(self, opened: StoredShard, shard: int, images: dict[int, bytes]) -> None:
        """Take these rows of a shard, another view, or text, from row to row."""
        self.others.append(opened.unit(opened.valid[:_SPREAD_ROWS], 0))
        for row, data in images.items():
            count = opened.num_items(row)
            if row not in opened.valid or not count:
                continue
            item = row % count
            if opened.views is not None:
                self.wanted.append((data, opened.views.view(row, item)))
            else:
                self.texts.append((opened.texts[row] or [])[item])
            self.places.append((shard, row))
            self.items.append(item)
            self.stored.append(opened.unit([row], item)[0])


def embed_views(
    teacher: ClipModel,
    wanted: Sequence[tuple[bytes, View]],
    *,
    look: Preprocess | None = None,
    reverse_channels: bool = False,
    render: Renderer = render_view,
) -> Float32[np.ndarray, "n d"]:
    """Embed views of encoded pictures; a picture that cannot be read gives a row of zeros."""
    embedder = ImageEmbedder(teacher, _BATCH, look=look)
    look = look or teacher.preprocess
    for data, view in wanted:
        try:
            pixels = render(Picture(data), view, look)
        except UnreadableImage:
            pixels = np.zeros((look.image_size, look.image_size, 3), np.uint8)
        embedder.add(pixels[..., ::-1] if reverse_channels else pixels)
    return np.nan_to_num(embedder.finish().unit, posinf=0.0, neginf=0.0)


def embed_strings(teacher: ClipModel, texts: Sequence[str]) -> Float32[np.ndarray, "n d"]:
    """Embed texts."""
    return np.nan_to_num(embed_texts(teacher, texts, _BATCH).unit, posinf=0.0, neginf=0.0)


def cosines(rows: Replay) -> np.ndarray:
    """Cosines of live and stored rows, for those who think in them."""
    return (_through(rows.codec, rows.live) * rows.stored).sum(1)


def _through(codec: Codec, live: np.ndarray) -> np.ndarray:
    return codec.unit_rows(codec.encode(live), live.shape[1])


def _errors(codec: Codec, live: np.ndarray, stored: np.ndarray, spread: float) -> np.ndarray:
    return _distances(_through(codec, live), stored) / spread


def _distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.linalg.norm(a.astype(np.float64) - b, axis=1)


def _spread(rows: np.ndarray) -> float:
    """Root mean square distance of two rows: the square root of twice the variance."""
    if len(rows) < 4:
        return 2.0**0.5
    centred = rows.astype(np.float64) - rows.mean(axis=0, dtype=np.float64)
    return max(float(np.sqrt(2 * (centred**2).sum(1).mean())), _TINY)
