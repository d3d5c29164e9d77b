"""One wording for every unknown name: what is missing, the nearest known name, where to look."""

from collections.abc import Iterable
from difflib import get_close_matches


def unknown_name(kind: str, name: str, known: Iterable[str]) -> ValueError:
    """Return the error to raise: `no recipe 'demoo'; did you mean 'demo'? Known: ...`."""
    names = sorted(known)
    near = get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    shown = ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
    return ValueError(f"no {kind} {name!r}{hint} Known: {shown}")
