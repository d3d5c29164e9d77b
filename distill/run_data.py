"""The data-health sections of the store that a run learned from."""

from typing import Literal

from markupsafe import Markup

from distill.health_page import health_fragment
from reinforced_data import audit
from reinforced_data.store.layout import open_store

HealthWanted = Literal["auto", "always", "never"]
# An audit reads and hashes every file: minutes at a disk's speed.
_AUTO_BYTES = 20_000_000_000


def health_sections(store: str, wanted: HealthWanted) -> tuple[Markup, str]:
    """Return the sections, escaped, or why there are none."""
    how = f"distill audit {store} --html health.html"
    if wanted == "never":
        return Markup(), f"not asked for (--health never); {how}"
    try:
        opened = open_store(store)
        sizes = (
            commit.num_bytes
            for column in opened.columns()
            for shard in opened.done(column)
            if (commit := opened.commit(column, shard)) is not None
        )
        total = sum(sizes)
        if wanted == "auto" and total > _AUTO_BYTES:
            return Markup(), f"the store holds {total / 1e9:.0f} GB: --health always, or {how}"
        report = audit(store, replay=16, progress=False)
    except (ValueError, OSError) as error:
        return Markup(), f"the store cannot be read: {error}"
    if not report.columns:
        return Markup(), f"the store has nothing to show: {'; '.join(report.problems)}"
    return health_fragment(report), ""
