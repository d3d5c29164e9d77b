"""Names beside points, where they fit."""

import xml.etree.ElementTree as ET

from distill.report.data import Number
from distill.report.svg import WIDTH, add, text_width

# Left, top, width, height.
Box = tuple[Number, Number, Number, Number]


def label_point(root: ET.Element, name: str, x: Number, y: Number, taken: list[Box]) -> None:
    """Name a point where there is room beside it; where there is none its tooltip must do."""
    width = text_width(name)
    places = (
        (x + 10, y - 7),
        (x - 10 - width, y - 7),
        (x - width / 2, y - 24),
        (x - width / 2, y + 10),
    )
    for left, top in places:
        box = (left, top, width, 14.0)
        inside = left >= 42 and left + width <= WIDTH - 2 and 20 <= top <= 240
        if inside and not any(_overlap(box, other) for other in taken):
            taken.append(box)
            add(root, "text", name, class_="label", x=left, y=top + 11)
            return


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[0] + b[2] and b[0] < a[0] + a[2] and a[1] < b[1] + b[3] and b[1] < a[1] + a[3]
