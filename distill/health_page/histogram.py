"""A histogram as inline SVG, in the report's own style."""

import numpy as np
from markupsafe import Markup

from distill.health_page.data import Histogram
from distill.report.axes import Frame, nice_ticks, plain
from distill.report.svg import add, drawing, markup
from distill.report.wording import tick

_BINS = 36
# Three of them stand side by side.
_WIDTH = 330


def histogram_chart(histogram: Histogram) -> Markup | None:
    """Bars over the middle 99.8 %, what lies outside in the outermost; None for one value alone."""
    values = histogram.values[np.isfinite(histogram.values)]
    if not len(values) or values.min() == values.max():
        return None
    edges = _edges(values)
    heights, _ = np.histogram(np.clip(values, edges[0], edges[-1]), edges)
    label = f"{histogram.title}: histogram of {len(values)} values"
    root = drawing(196, label, width=_WIDTH)
    x_ticks = [t for t in nice_ticks(edges[0], edges[-1], most=6) if edges[0] <= t <= edges[-1]]
    y_ticks = nice_ticks(0.0, float(heights.max()), most=4)
    frame = Frame(
        left=40, top=18, right=_WIDTH - 8, bottom=152,
        x_range=(float(edges[0]), float(edges[-1])), y_range=(0.0, y_ticks[-1]),
    )  # fmt: skip
    frame.draw_y(root, y_ticks, _tick, "")
    for value in x_ticks:
        add(root, "text", plain(value), class_="tick mid", x=frame.x(value), y=frame.bottom + 16)
    add(root, "text", histogram.unit, class_="axis end", x=frame.right, y=frame.bottom + 34)
    for height, low, high in zip(heights.tolist(), edges, edges[1:], strict=False):
        if height:
            left, top = frame.x(float(low)), frame.y(height)
            bar = add(
                root, "rect", class_="hist", x=left + 0.6, y=top,
                width=max(0.8, frame.x(float(high)) - left - 1.2), height=frame.bottom - top,
            )  # fmt: skip
            add(bar, "title", f"{low:.4g} to {high:.4g}: {height:,}")
    middle = frame.x(float(np.clip(np.median(values), edges[0], edges[-1])))
    add(root, "line", class_="rule", x1=middle, x2=middle, y1=frame.top - 6, y2=frame.bottom)
    side = "end" if middle > _WIDTH * 0.6 else ""
    said = f"median {np.median(values):.3g}"
    shift = -6 if side else 6
    add(root, "text", said, class_=f"tick {side}", x=middle + shift, y=frame.top + 2)
    return markup(root)


def _edges(values: np.ndarray) -> np.ndarray:
    low, high = np.quantile(values, [0.001, 0.999])
    whole = bool((values == np.rint(values)).all())
    if whole and high - low <= _BINS + 4:
        return np.arange(np.floor(low) - 0.5, np.ceil(high) + 1)
    if low == high:
        low, high = values.min(), values.max()
    if whole:
        width = np.ceil((high - low + 1) / _BINS)
        return np.arange(low - 0.5, high + width, width)
    return np.linspace(low, high, _BINS + 1)


def _tick(value: float) -> str:
    return tick(round(value)) if value == round(value) else ""
