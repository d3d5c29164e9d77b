"""The part of an audit that derives again what no teacher is needed for: views and captions.

Views are a function of (seed, key, view index); the source's own captions are in the source. So
rows that are shifted, or of another policy, are noticed without a model.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

from reinforced_data.auditing.files import FileFindings
from reinforced_data.auditing.findings import Finding
from reinforced_data.auditing.sources import MOST_SEARCHED
from reinforced_data.imported_views import is_imported
from reinforced_data.source import BrokenShard, scan_shard
from reinforced_data.store.column_rows import IndexRows, ViewRows
from reinforced_data.store.columns import ORIGINAL, Column
from reinforced_data.store.layout import Store
from reinforced_data.view_policy import ViewPolicy
from reinforced_data.views import View, sample_view

Item = TypeVar("Item")

_NEAR = 1e-6


def check_views(
    store: Store, found: FileFindings, index: Column, chosen: dict[int, list[int]]
) -> None:
    """Draw the views of the chosen samples again."""
    for entry in found.of_kind("views"):
        if not is_imported(entry.column):
            for shard in sorted(entry.sound & chosen.keys()):
                _check_views(store, found, index, entry.column, shard, chosen[shard])


def _check_views(
    store: Store, found: FileFindings, index: Column, views: Column, shard: int, rows: list[int]
) -> None:
    drawn = _Drawn(store, index, views, shard)
    stored = ViewRows(views, store.rows(views, shard))

    def same(row: int, sample: int) -> bool:
        return _alike(stored.views(row), drawn(sample))

    rows = [row for row in rows if stored.valid[row]]
    wrong = [row for row in rows if not same(row, row)]
    if wrong:
        valid = [row for row in range(stored.num_rows) if stored.valid[row]]
        cause = _cause(_shift(wrong, valid, same), "its seed and policy give others")
        where = f"{store.sources[shard]}, {drawn.keys[wrong[0]]!r} first"
        found.blame(_finding("views", views, shard, f"{len(wrong)} of {len(rows)}", where, cause))


def check_captions(store: Store, found: FileFindings, index: Column, shards: Sequence[int]) -> None:
    """Read the captions of some of these shards again: no more than `MOST_SEARCHED`."""
    for entry in found.of_kind("captions"):
        if entry.column.identity.get("set") == ORIGINAL:
            for shard in sorted(entry.sound.intersection(shards))[:MOST_SEARCHED]:
                _check_captions(store, found, index, entry.column, shard)


def _check_captions(
    store: Store, found: FileFindings, index: Column, captions: Column, shard: int
) -> None:
    stored = store.rows(captions, shard)["captions"].to_pylist()
    field = captions.identity.get("captions_from")
    try:
        samples = scan_shard(store.sources[shard], captions_from=field)
        source = [list(sample.captions) or None for sample in samples]
    except (BrokenShard, OSError):
        return  # said where the source is checked

    def same(row: int, sample: int) -> bool:
        return stored[row] == source[sample]

    rows = [row for row in range(min(len(stored), len(source))) if stored[row]]
    wrong = [row for row in rows if not same(row, row)]
    if wrong:
        valid = [row for row in range(len(source)) if source[row]]
        cause = _cause(_shift(wrong, valid, same), "the source says something else")
        key = IndexRows(store.rows(index, shard)).keys[wrong[0]]
        where = f"{store.sources[shard]}, {key!r} first"
        counts = f"{len(wrong)} of {len(rows)}"
        found.blame(_finding("captions", captions, shard, counts, where, cause))


class _Drawn:
    """The views that a column should have."""

    def __init__(self, store: Store, index: Column, views: Column, shard: int) -> None:
        batch = store.rows(index, shard)
        self.keys: list[str] = batch["key"].to_pylist()
        self._sizes = list(
            zip(batch["width"].to_pylist(), batch["height"].to_pylist(), strict=True)
        )
        self._policy = ViewPolicy.from_config(views.identity["policy"])
        self._seed, self._num_views = views.identity["seed"], views.identity["num_views"]

    def __call__(self, row: int) -> list[View]:
        width, height = self._sizes[row]
        return [
            sample_view(self._policy, self._seed, self.keys[row], number, width / height)
            for number in range(self._num_views)
        ]


def _alike(stored: Sequence[View], drawn: Sequence[View]) -> bool:
    """Equal but for the last bits that another C library may round otherwise."""
    return len(stored) == len(drawn) and all(map(_same_view, stored, drawn))


def _same_view(a: View, b: View) -> bool:
    # A store leaves the identity out.
    a_ops, b_ops = ([op for op in view.ops if op[0] != "identity"] for view in (a, b))
    numbers = zip(
        [*a.crop, *(magnitude for _, magnitude in a_ops)],
        [*b.crop, *(magnitude for _, magnitude in b_ops)],
        strict=False,
    )
    names = [name for name, _ in a_ops] == [name for name, _ in b_ops]
    return names and all(abs(x - y) <= _NEAR for x, y in numbers)


def _shift(
    wrong: Sequence[int], valid: Sequence[int], same: Callable[[int, int], bool]
) -> int | None:
    """By how many samples the rows are shifted, one up or one down; else None."""
    place = {row: i for i, row in enumerate(valid)}
    known = [row for row in wrong if row in place]
    for shift in (1, -1):
        hits = sum(same(row, valid[(place[row] + shift) % len(valid)]) for row in known)
        if known and hits >= 0.8 * len(known):
            return shift
    return None


def _cause(shift: int | None, otherwise: str) -> tuple[str, str]:
    """Slug and text."""
    if shift is None:
        return "unexplained", otherwise
    belongs = f"row i holds what belongs to the {shifted_to(shift)} sample"
    return "shifted", f"rows are shifted by one: {belongs}"


def _finding(
    what: str, column: Column, shard: int, counts: str, where: str, cause: tuple[str, str]
) -> Finding:
    text = (
        f"column {column.name}, shard {shard}: {counts} rows do not hold the {what} of their "
        f"sample ({where}): {cause[1]}. Embeddings made since then belong to the wrong {what} "
        "too; give --teachers to see. `distill audit --repair` writes this shard of the column "
        "anew"
    )
    return Finding(
        kind=f"wrong-{what}", text=text, column=column.name, shards=(shard,), cause=cause[0]
    )


def shifted_to(shift: int) -> str:
    """'next', 'previous' or '3rd next'."""
    way = "next" if shift > 0 else "previous"
    return way if abs(shift) == 1 else f"{abs(shift)} places {way}"
