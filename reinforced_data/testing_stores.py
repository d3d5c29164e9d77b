"""Stores of synthetic rows, of any size, for tests and benchmarks of reading.

Columns are made by `make_plan` and written by the real writers; only pictures, and teachers that
would have looked at them, there are none. Every row says who it is: its first numbers are a
function of shard, row and view, so that a reader can be checked against `expected_rows`.
"""

import hashlib
from pathlib import Path

import numpy as np
from jaxtyping import Float

from reinforced_data.codecs.codec import CODECS
from reinforced_data.embedding import Rows
from reinforced_data.plan import Plan, make_plan
from reinforced_data.store.column_rows import (
    IndexRow,
    captions_batch,
    image_batch,
    index_batch,
    text_batch,
    views_batch,
)
from reinforced_data.store.layout import Store, create_store
from reinforced_data.testing import TinyEncoder, tiny_teacher
from reinforced_data.view_policy import ViewPolicy
from reinforced_data.views import View, sample_view

# Of a million rows nobody needs a million different views.
_DIFFERENT_VIEWS = 997


def synthetic_store(
    folder: Path,
    *,
    num_shards: int,
    shard_rows: int,
    num_views: int = 2,
    embed_dim: int = 32,
    codec: str = "float16",
) -> Path:
    """Write a store of one teacher in `folder`, and return where it is.

    The source shards beside it are empty files: whatever wants a picture fails.
    """
    sources = [folder / "source" / f"{shard:05d}.tar" for shard in range(num_shards)]
    (folder / "source").mkdir(parents=True)
    for source in sources:
        source.touch()
    store = create_store(folder / "store", [str(source) for source in sources])
    policy = ViewPolicy()
    plan = make_plan(
        store,
        [tiny_teacher("synthetic", module=TinyEncoder(embed_dim))],
        policy=policy,
        num_views=num_views,
        seed=0,
        codec=codec,
        captions_from=None,
    )
    views = [
        tuple(sample_view(policy, 0, str(number), k) for k in range(num_views))
        for number in range(min(_DIFFERENT_VIEWS, shard_rows))
    ]
    for shard in range(num_shards):
        _write_shard(store, plan, shard, shard_rows, views)
    return folder / "store"


def key_of(shard: int, row: int) -> str:
    """The key of a sample."""
    return f"{shard:05d}{row:06d}"


def caption_of(shard: int, row: int) -> str:
    """Its caption."""
    return f"a picture of number {row} in shard {shard}"


def expected_rows(
    shard: np.ndarray | int, rows: np.ndarray, view: np.ndarray | int, dim: int
) -> Float[np.ndarray, "n dim"]:
    """Unit rows `(n, dim)` in float32 of these samples' views; texts are view -1."""
    numbers = np.stack(np.broadcast_arrays(shard + 1, rows + 1, view + 2), axis=1)
    phases = numbers * np.array([0.731, 0.00917, 1.37])
    waves = np.arange(1, dim + 1, dtype=np.float32) * 0.37
    values = np.cos(phases.sum(1, keepdims=True).astype(np.float32) + waves)
    values[:, :3] += np.sin(phases)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def _write_shard(
    store: Store, plan: Plan, shard: int, num_rows: int, views: list[tuple[View, ...]]
) -> None:
    keys = [key_of(shard, row) for row in range(num_rows)]
    valid = np.ones(num_rows, dtype=bool)
    rows, (entry,) = np.arange(num_rows), plan.teachers
    assert entry.image is not None and entry.text is not None
    dim, codec = entry.teacher.embed_dim, CODECS[plan.codec]
    index = [
        IndexRow(
            key=key,
            offset=row * 1024,
            size=512,
            width=64,
            height=48,
            sha256=hashlib.sha256(key.encode()).digest(),
        )
        for row, key in enumerate(keys)
    ]
    images = [expected_rows(shard, rows, view, dim) for view in range(plan.num_views)]
    stacked = np.stack(images, axis=1).reshape(-1, dim)
    texts = expected_rows(shard, rows, -1, dim)
    batches = [
        (plan.index, index_batch(index)),
        (
            plan.captions,
            captions_batch([(caption_of(shard, row),) for row in range(num_rows)], keys),
        ),
        (
            plan.views,
            views_batch(plan.views, [views[row % len(views)] for row in range(num_rows)], keys),
        ),
        (entry.image, image_batch(codec, _rows(stacked), plan.num_views, valid, keys)),
        (entry.text, text_batch(codec, _rows(texts), np.ones(num_rows, np.int64), keys)),
    ]
    for column, batch in batches:
        store.write(column, shard, batch, [])


def _rows(unit: np.ndarray) -> Rows:
    return Rows(unit.astype(np.float32), np.ones(len(unit), np.float32))
