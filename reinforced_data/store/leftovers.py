"""What killed writers leave behind, and who may remove it when.

A file is a leftover as soon as what it was to become is there: an attempt whose unit is committed,
a temporary file whose target exists. Its writer may be alive, or asleep: then its commit is lost
anyway, and a temporary file that vanished is written again. So no age, clock or lock is needed.
What is left of a unit that nobody has committed yet stays until somebody has.
"""

from collections import defaultdict

from reinforced_data.store.commits import read_commit, shard_name
from reinforced_data.store.layout import Store
from reinforced_data.store.storage import Storage, temporary_of


def remove_leftovers(store: Store) -> int:
    """Remove the leftovers of a store, those of all columns; return how many there were."""
    storage = store.storage
    found = _temporaries(storage, "") + _temporaries(storage, "columns")
    for column in store.columns():
        found += _temporaries(storage, f"commits/{column.name}")
        found += _attempts(storage, column.name, store.done(column))
    for path in found:
        storage.remove(path)
    return len(found)


def _temporaries(storage: Storage, folder: str) -> list[str]:
    names = set(storage.list(folder, ""))
    inside = f"{folder}/" if folder else ""
    return [f"{inside}{name}" for name in names if temporary_of(name) in names]


def _attempts(storage: Storage, column: str, done: set[int]) -> list[str]:
    """Data files, temporary or whole, of committed units that the commit does not name."""
    folder = f"data/{column}"
    files: dict[str, list[str]] = defaultdict(list)
    for name in storage.list(folder, ""):
        files[(temporary_of(name) or name).split(".")[0]].append(f"{folder}/{name}")
    found = []
    for shard in done:
        attempts = files[shard_name(shard)]
        commit = read_commit(storage, column, shard) if len(attempts) > 1 else None
        if commit is not None and commit.data in attempts:
            found += [path for path in attempts if path != commit.data]
    return found
