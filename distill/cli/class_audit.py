"""What `distill evaluate --alike --leaks-from` finds of a split, and prints of it."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.console import Console

if TYPE_CHECKING:
    from distill.evaluation.class_audit import KnownPictures
    from teachers.clip_model import ClipModel

# Of each list, on the terminal; --json and --out have all.
_SHOWN = 5


def audit_split(
    model: "ClipModel",
    source: str,
    names: list[str],
    rows: Mapping[str, Any],
    console: Console,
    *,
    called: str,
    train: "KnownPictures | None",
    limit: int | None,
) -> dict[str, Any]:
    """List class names that are hardly told apart, and pictures that were trained on.

    Args:
        model: whose eye it is.
        source: the split's shards.
        names: its classes.
        rows: `templates` and `sentences`, by which a class gets its row.
        console: has the first few of each list.
        called: the split, in what is printed.
        train: the training pictures, or None to look for no leaks.
        limit: of the split's samples.
    """
    from distill.evaluation.class_audit import alike_classes

    alike = alike_classes(model, names, **rows) if names else []
    console.print(f"{called}: {len(alike)} pairs of alike class names", highlight=False)
    for pair in alike[:_SHOWN]:
        console.print(f"  {pair.first!r} and {pair.second!r}: {pair.cosine:.3f}")
    found: dict[str, Any] = {"alike": [asdict(pair) for pair in alike]}
    if train is not None:
        found["leaks"] = _leaks(train, model, source, limit, console)
    return found


def _leaks(
    train: "KnownPictures",
    model: "ClipModel",
    source: str,
    limit: int | None,
    console: Console,
) -> list[dict[str, Any]]:
    from distill.evaluation.class_audit import leaks

    seen = leaks(model, train, source, limit=limit)
    equal = sum(leak.same_bytes for leak in seen)
    console.print(
        f"{source}: {equal} pictures that are in {train.source}, {len(seen) - equal} more that "
        "nearly are",
        highlight=False,
    )
    for leak in seen[:_SHOWN]:
        console.print(f"  {leak.test_key} is {leak.train_key}: {leak.cosine:.3f}")
    return [asdict(leak) for leak in seen]
