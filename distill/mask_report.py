"""What masks found, for people and for `sizes.json`: every tower's sizes, before and after."""

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from students import Student
from students.inheritance import Annotation
from students.masks import Size

SIZES_FILE = "sizes.json"


def found_sizes(
    before: Student,
    after: Student,
    annotation: Annotation,
    sizes: Mapping[str, Size],
    kept: Mapping[str, int],
) -> dict[str, Any]:
    """Return JSON values: each size, hidden width and parameter count as [before, after].

    Args:
        before: at full size, not masked.
        after: folded.
        annotation: of `before`.
        sizes: what could shrink, by name.
        kept: what each is now.
    """
    found: dict[str, list[int]] = {}
    for tower, axes in annotation.towers.items():
        mine = {name: size for name, size in sizes.items() if name.startswith(f"{tower}.")}
        found |= {name: [size.total, kept[name]] for name, size in mine.items()}
        hidden = [
            [member.kept(size.total), member.kept(kept[name])]
            for name, size in mine.items()
            for member in size.members
            if not member.blocks and axes.axes[member.axis].kind == "hidden"
        ]
        if hidden:  # of several stages the widest
            found[f"{tower}.hidden"] = max(hidden)
    return {
        "sizes": found,
        "parameters": {
            "image": [before.image_params, after.image_params],
            "text": [before.text_params, after.text_params],
        },
    }


def sizes_table(found: Mapping[str, Any]) -> Table:
    """What `found_sizes` gave, as a table."""
    table = Table(box=None, pad_edge=False)
    for name in ("", "before", "after", "left"):
        table.add_column(name, justify="right" if name else "left", no_wrap=True)
    rows = dict(found["sizes"])
    towers = found["parameters"]
    rows |= {f"{tower} parameters": pair for tower, pair in towers.items()}
    rows["parameters"] = [sum(pair) for pair in zip(*towers.values(), strict=True)]
    for name, (before, after) in rows.items():
        table.add_row(name, f"{before:,}", f"{after:,}", f"{after / before:.1%}")
    return table
