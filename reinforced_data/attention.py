"""What a teacher looks at in each view, written once and read by token policies.

An `extra` column beside a teacher's image embeddings, from the same forward pass: for each view the
last block's attention to the patches (teachers/patch_attention.py), as ranks of one byte, 255 the
most attended. Ranks and not weights: which patches stay is a question of order, and a few sinks of
attention would leave nothing of the rest in eight bits. A view's map is of that view's own pixels,
so that no crop has to be undone when it is read.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float32, UInt8

from reinforced_data.store.arrow_rows import fixed_lists, fixed_values, make_batch
from reinforced_data.store.columns import Column, make_column, slugify
from teachers import ClipModel
from teachers.patch_attention import attention_tower

_FIELD = "ranks"
_UINT8 = np.dtype(np.uint8)


def attention_column(teacher: ClipModel, views: Column) -> Column:
    """Describe the column of a teacher's attention to the patches of a view set.

    Raises:
        ValueError: the teacher's image tower has no attention that can be read.
    """
    rows, columns = attention_tower(teacher.module, teacher.name).grid
    of = {
        "attention_of": teacher.name,
        "teacher_fingerprint": getattr(teacher, "fingerprint", None),
        "blocks": "last",
        "grid": [rows, columns],
        "num_views": views.identity["num_views"],
        "views": views.name,
    }
    name = slugify(f"attention-{teacher.name}-{views.identity.get('set', '')}").strip("-")
    width = views.identity["num_views"] * rows * columns
    identity = {
        "name": name,
        "schema": [[_FIELD, str(pa.list_(pa.uint8(), width))]],
        "of": of,
        "hangs_on": views.name,
    }
    return make_column("extra", f"extra-{name}", identity)


def ranks(scores: Float32[np.ndarray, "n rows columns"]) -> UInt8[np.ndarray, "n rows columns"]:
    """Each patch's rank among those of its picture, spread over 0 to 255; of equals the first."""
    flat = scores.reshape(len(scores), scores.shape[1] * scores.shape[2])
    order = np.argsort(-flat, axis=1, kind="stable")
    found = np.empty_like(order)
    np.put_along_axis(found, order, np.arange(flat.shape[1])[None], axis=1)
    last = max(1, flat.shape[1] - 1)
    return np.round(255 * (1 - found / last)).astype(np.uint8).reshape(scores.shape)


def attention_batch(
    column: Column,
    maps: UInt8[np.ndarray, "views rows columns"],
    kept: Bool[np.ndarray, " n"],
    keys: Sequence[str],
) -> pa.RecordBatch:
    """Make a shard's rows: the maps of each sample that is kept, one after the other."""
    of = column.identity["of"]
    values = np.zeros((len(keys), of["num_views"], *of["grid"]), np.uint8)
    values[kept] = maps.reshape(-1, of["num_views"], *of["grid"])
    return make_batch({_FIELD: fixed_lists(values, kept, pa.uint8())}, keys)


def attention_of_views(columns: Iterable[Column], views: Column, where: str) -> Column:
    """Find the store's column of attention to these views.

    Raises:
        ValueError: there is none, or there are several.
    """
    found = [
        column
        for column in columns
        if column.kind == "extra"
        and column.identity["hangs_on"] == views.name
        and "attention_of" in (column.identity.get("of") or {})
    ]
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(column.identity["of"]["attention_of"] for column in found)
        raise ValueError(
            f"{where} has the attention of several teachers ({names}), and tokens.image_scores="
            "'teacher' means one: remove the other columns, or take another view set"
        )
    raise ValueError(
        f"{where} has no teacher's attention to these views, which tokens.image='attentive' goes "
        "by. Write it: distill reinforce SOURCE STORE --teachers T --attention T, with the same "
        "settings as before, or take --tokens.image-scores ema"
    )


class AttentionRows:
    """An attention column's shard, opened."""

    def __init__(self, column: Column, batch: pa.RecordBatch) -> None:
        """View the file's bytes as an array."""
        of = column.identity["of"]
        values = fixed_values(batch[_FIELD], _UINT8)
        self._maps = values.reshape(batch.num_rows, of["num_views"], *of["grid"])

    def some(self, rows: np.ndarray, views: np.ndarray) -> UInt8[np.ndarray, "n rows columns"]:
        """One view's map of each of these rows."""
        return self._maps[rows, views]
