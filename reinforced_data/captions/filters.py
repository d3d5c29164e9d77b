"""Which of a captioner's texts are kept: clean, said once, of a sensible length, about the picture.

Every text that is dropped is counted by reason. What is left out: judging style or grammar.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from reinforced_data.codecs.codec import Codec
from reinforced_data.codecs.of_columns import codec_of
from reinforced_data.embedding import embed_texts
from reinforced_data.store.column_rows import ImageRows
from reinforced_data.store.columns import Column
from reinforced_data.store.layout import Store
from teachers import ClipModel


@dataclass(frozen=True, kw_only=True)
class LengthBounds:
    """How many words a caption may have; what is longer or shorter is dropped, never cut.

    Words are what white space separates, so a language without spaces needs `min_words=1`.
    """

    min_words: int = 2
    max_words: int | None = None

    def __post_init__(self) -> None:
        """Refuse bounds that no text is within."""
        most = self.min_words if self.max_words is None else self.max_words
        if not 1 <= self.min_words <= most:
            raise ValueError(
                "captions need 1 <= min_words <= max_words, got "
                f"{self.min_words} and {self.max_words}"
            )

    def problem(self, text: str) -> str | None:
        """Say why a text is out of bounds, or None."""
        words = len(text.split())
        if words < self.min_words:
            return "too-short"
        return "too-long" if self.max_words is not None and words > self.max_words else None


def folded(text: str) -> str:
    """What makes two captions one: neither case nor white space counts."""
    return "".join(text.split()).casefold()


def choose_texts(
    texts: Iterable[str], originals: Iterable[str], bounds: LengthBounds, dropped: Counter[str]
) -> list[str]:
    """Return the texts that are kept, in order, white space tidied; count the others by reason."""
    seen = {folded(text) for text in originals}
    kept = []
    for text in texts:
        clean = " ".join(text.split())
        problem = _text_problem(clean, seen) or bounds.problem(clean)
        if problem is None:
            seen.add(folded(clean))
            kept.append(clean)
        else:
            dropped[problem] += 1
    return kept


def _text_problem(text: str, seen: set[str]) -> str | None:
    if not text:
        return "empty"
    try:
        text.encode()
    except UnicodeEncodeError:  # half a character, which no file can hold
        return "bad-text"
    return "duplicate" if folded(text) in seen else None


@dataclass(frozen=True, kw_only=True)
class Scorer:
    """The CLIP-score filter: a live teacher's text rows against its stored image rows.

    A caption's score is the mean of its cosines with the sample's stored views.

    Attributes:
        teacher: whose text tower embeds the captions.
        image: the column of its image rows.
        num_views: views per sample there.
        min_score: captions below it are dropped.
    """

    teacher: ClipModel
    image: Column
    num_views: int
    min_score: float

    def drop_low(
        self,
        store: Store,
        shard: int,
        captions: Sequence[list[str]],
        batch_size: int,
        dropped: Counter[str],
    ) -> list[list[str]]:
        """Drop what scores too low; a sample without image rows loses all its captions."""
        rows = ImageRows(self.image, store.rows(self.image, shard), self.num_views)
        codec = codec_of(store.storage, self.image)
        unique = list(dict.fromkeys(text for texts in captions for text in texts))
        embedded = embed_texts(self.teacher, unique, batch_size)
        vectors = dict(zip(unique, embedded.unit, strict=True))
        kept = []
        for row, texts in enumerate(captions):
            mean = self._mean_view(codec, rows, row) if texts and rows.valid[row] else None
            # A comparison with NaN is False: such a text is dropped too.
            good = [t for t in texts if mean is not None and vectors[t] @ mean >= self.min_score]
            dropped["low-score"] += len(texts) - len(good)
            kept.append(good)
        return kept

    def _mean_view(self, codec: Codec, rows: ImageRows, row: int) -> np.ndarray:
        encoded = rows.encoded(np.full(self.num_views, row), np.arange(self.num_views))
        return codec.unit_rows(encoded, self.teacher.embed_dim).mean(0)
