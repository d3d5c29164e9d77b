"""A drawing as an element tree: whatever a name holds, it is escaped on the way out.

Colours are CSS classes, so that one drawing serves light and dark pages. Marks differ in shape as
well as in colour.
"""

import xml.etree.ElementTree as ET
from typing import Final

from markupsafe import Markup

from distill.report.data import Kind, Number
from distill.report.wording import printable

# The width that every chart is drawn at; the page scales it down on narrow screens.
WIDTH: Final = 460
_CHARACTER_PX: Final = 6.1


def add(parent: ET.Element, tag: str, text: str = "", /, **attributes: object) -> ET.Element:
    """Append an element; `class_` and `stroke_width` mean `class` and `stroke-width`."""
    written = {
        key.rstrip("_").replace("_", "-"): f"{value:.1f}"
        if isinstance(value, float)
        else str(value)
        for key, value in attributes.items()
    }
    element = ET.SubElement(parent, tag, written)
    if text:
        element.text = printable(text)
    return element


def drawing(height: Number, label: str, *, width: Number = WIDTH) -> ET.Element:
    """An empty drawing; `label` is what a screen reader says."""
    box = f"0 0 {width:g} {height:g}"
    return ET.Element("svg", {"viewBox": box, "role": "img", "aria-label": printable(label)})


def markup(root: ET.Element) -> Markup:
    """The drawing as text that the template leaves as it is."""
    return Markup(ET.tostring(root, encoding="unicode"))


def shortened(text: str, width_px: Number) -> str:
    """Cut a text that would be wider than `width_px`."""
    room = max(2, int(width_px / _CHARACTER_PX))
    text = printable(text)
    return text if len(text) <= room else text[: room - 1] + "\u2026"


def text_width(text: str) -> Number:
    """A guess at the width of a chart's text; no browser is there to ask."""
    return len(text) * _CHARACTER_PX


def mark(parent: ET.Element, kind: Kind, x: Number, y: Number, title: str) -> ET.Element:
    """Teacher: diamond. Distilled: disc. Control: square. Undistilled: ring."""
    group = add(parent, "g", class_=f"mark {kind}")
    add(group, "title", title)
    if kind == "teacher":
        corners = f"M{x:.1f} {y - 6:.1f}l6 6l-6 6l-6 -6z"
        add(group, "path", d=corners)
    elif kind == "control":
        add(group, "rect", x=x - 4.5, y=y - 4.5, width=9, height=9)
    else:
        add(group, "circle", cx=x, cy=y, r=5.5 if kind == "distilled" else 4.8)
    return group


def legend_icon(kind: Kind) -> Markup:
    """The mark of a kind, for a legend."""
    root = drawing(16, kind, width=16)
    root.set("class", "icon")
    mark(root, kind, 8.0, 8.0, kind)
    return markup(root)
