"""View sets that were imported, not drawn: further teachers embed them as they are in the store."""

from collections.abc import Sequence

from reinforced_data.source import BrokenShard
from reinforced_data.store.columns import Column, view_set_of
from reinforced_data.store.layout import Store
from reinforced_data.view_policy import ViewPolicy


def is_imported(views: Column) -> bool:
    """Whether somebody else has drawn these views."""
    return "imported" in views.identity


def imported_views(
    store: Store, there: Sequence[Column], *, policy: ViewPolicy, num_views: int, seed: int
) -> Column | None:
    """Return the imported one of the columns of a view set that are there; None if none is.

    Raises:
        ValueError: something else is asked of it than what was imported.
    """
    column = next(filter(is_imported, there), None)
    if column is None:
        return None
    number = column.identity["num_views"]
    wrong = []
    if num_views != number:
        wrong.append(f"it has {number} views a picture, you ask for {num_views}")
    if policy != ViewPolicy() or seed:
        wrong.append("no policy and no seed can draw its views")
    if wrong:
        raise ValueError(
            f"{store.name}: view set {view_set_of(column)!r} was imported ({column.name}): "
            f"{'; '.join(wrong)}. Teachers are asked about the views that are there: give "
            f"num_views={number} (--num-views {number}) and leave policy and seed out, or give "
            "another name (view_set=..., --view-set NAME) to draw views beside them"
        )
    return column


def check_there(store: Store, views: Column, shard: int) -> None:
    """Refuse a shard whose imported views are not there; the others are done.

    Raises:
        BrokenShard: says how to get them.
    """
    if is_imported(views) and store.commit(views, shard) is None:
        raise BrokenShard(
            f"{store.name}: shard {shard}, {store.sources[shard]}, lacks the imported views of "
            f"{views.name}, and nobody can draw them again: the import has not finished. Give the "
            "same `distill import` command first"
        )
