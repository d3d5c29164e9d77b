"""One wording for every unknown name: what is missing, the nearest known name, where to look."""

from collections.abc import Iterable
from difflib import get_close_matches


def unknown_name(kind: str, name: str, known: Iterable[str]) -> ValueError:
    """Return the error to raise: `no recipe 'demoo'; did you mean 'demo'? Known: ...`."""
    names = sorted(known)
    hint = did_you_mean(name, names) or "."
    shown = ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
    return ValueError(f"no {kind} {name!r}{hint} Known: {shown or 'none'}")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `; did you mean 'demo'?`, or nothing when no name is near. Case does not matter."""
    by_lower = {choice.lower(): choice for choice in known}
    near = get_close_matches(name.lower(), by_lower, n=1, cutoff=0.5)
    return f"; did you mean {by_lower[near[0]]!r}?" if near else ""
