"""A shard's captions as a teacher sees them: each different text once, then row by row."""

from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa

from reinforced_data.codecs.codec import Codec
from reinforced_data.embedding import Rows, embed_texts
from reinforced_data.store.column_rows import text_batch
from reinforced_data.store.columns import Column
from reinforced_data.store.layout import Store
from teachers import ClipModel

# Of fewer rows, all may be bad by bad luck.
_ENOUGH_TO_JUDGE = 4


def check_first_rows(store: Store, column: Column, shard: int, rows: Rows) -> None:
    """Refuse a teacher that fails from the start: it must not empty the whole store, row by row.

    Raises:
        ValueError: nothing of `rows` is usable, and `column` has no shard yet.
    """
    usable = np.isfinite(rows.norms) & (rows.norms > 0)
    if len(usable) < _ENOUGH_TO_JUDGE or usable.any() or store.done(column):
        return
    raise ValueError(
        f"teacher {column.identity['teacher']!r} gave nothing usable for {column.name} in its "
        f"first shard, {store.sources[shard]}: all {len(usable)} rows are NaN, infinite "
        "or zero, also when tried again in float32. Nothing was written of this column. "
        "Check the teacher's weights, preprocessing and precision, then give the same "
        "command again"
    )


def embed_captions(
    teacher: ClipModel,
    captions: Sequence[Sequence[str] | None],
    batch_size: int,
    between_batches: Callable[[], None],
) -> tuple[dict[str, int], Rows]:
    """Embed each different text once; return where each one's row is, and the rows."""
    unique: dict[str, int] = {}
    for texts in captions:
        for text in texts or ():
            unique.setdefault(text, len(unique))
    return unique, embed_texts(teacher, list(unique), batch_size, between_batches)


def captions_unit(
    codec: Codec,
    captions: Sequence[Sequence[str] | None],
    places: dict[str, int],
    embedded: Rows,
    keys: Sequence[str],
) -> tuple[pa.RecordBatch, list[str | None]]:
    """Make a text column's batch; a sample with one bad caption is a null row with a reason."""
    problems = embedded.problems()
    reasons: list[str | None] = []
    picked: list[int] = []
    counts: list[int] = []
    for texts in captions:
        ids = [places[text] for text in texts or ()]
        reason = next(filter(None, [problems[i] for i in ids]), None)
        ids = [] if reason else ids
        reasons.append(reason)
        picked += ids
        counts.append(len(ids))
    rows = Rows(embedded.unit[picked], embedded.norms[picked])
    return text_batch(codec, rows, np.array(counts, np.int64), keys), reasons
