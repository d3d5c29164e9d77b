"""The part of an audit that reads no row: columns' files, and records that belong to none."""

from collections import Counter
from collections.abc import Sequence

from reinforced_data.auditing.findings import Finding
from reinforced_data.store.columns import KINDS, Column
from reinforced_data.store.layout import Store


def read_columns(store: Store) -> tuple[list[Column], list[Finding]]:
    """Read what can be read, columns that others hang on first; say what is wrong."""
    columns, findings = [], []
    for file in store.storage.list("columns", ".json"):
        where = f"{store.name}/columns/{file}"
        try:
            columns.append(Column.from_json(store.storage.read_json(f"columns/{file}"), where))
        except ValueError as error:
            said = f"{error}. Restore the file: the column's rows mean nothing without it"
            findings.append(Finding(kind="damaged-column", text=said))
    columns.sort(key=lambda column: (KINDS.index(column.kind), column.name))
    return columns, findings + _check(store, columns) + _orphans(store, columns)


def _check(store: Store, columns: Sequence[Column]) -> list[Finding]:
    findings = []
    names = {column.name for column in columns}
    kinds = Counter(column.kind for column in columns)
    for kind in ("index", "views", "captions"):
        if not kinds[kind]:
            said = f"{store.name} has no column of kind {kind}; training needs one"
            findings.append(Finding(kind="missing-column", text=said))
    for column in columns:
        parent = column.identity.get("hangs_on")
        if parent is not None and parent not in names:
            said = (
                f"column {column.name} hangs on the column {parent}, which {store.name}/columns "
                "lacks; restore that file, or remove this column"
            )
            findings.append(Finding(kind="missing-column", text=said, column=column.name))
    return findings


def _orphans(store: Store, columns: Sequence[Column]) -> list[Finding]:
    """Commits that belong to no column, or to a shard that the store does not have."""
    findings, known = [], {column.name for column in columns}
    for name in store.storage.list("commits", ""):
        if name not in known:
            said = (
                f"{store.name}/commits/{name} belongs to no column that can be read: "
                f"columns/{name}.json is gone or broken. Restore it, or remove the commits"
            )
            findings.append(Finding(kind="orphan", text=said, column=name))
    for column in columns:
        beyond = sorted(shard for shard in store.done(column) if shard >= store.num_shards)
        if beyond:
            said = (
                f"column {column.name} has a commit for shard {beyond[0]}, but {store.name}/"
                f"sources.json lists {store.num_shards} shards. Remove the record, or restore the "
                "list"
            )
            findings.append(Finding(kind="orphan", text=said, column=column.name))
    return findings
