"""The charts of a report: scores, curves, timings. Inline SVG, no library.

Each takes the report's own rows and returns markup. Values that are not finite are left out.
"""

import math
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence

from markupsafe import Markup

from distill.report.axes import Frame, nice_ticks, plain
from distill.report.data import Curve, Kind, Number, Row
from distill.report.svg import WIDTH, add, drawing, mark, markup, shortened, text_width
from distill.report.wording import duration, is_fraction, metric_name, percent, split_name

_LONGEST_NAME_PX = 230
_MOST_POINTS = 80


def score_chart(rows: Sequence[Row], key: str, *, reference: Row | None = None) -> Markup:
    """One line a model, its score as a mark; the reference teacher's score as a dashed rule."""
    shown = [row for row in rows if math.isfinite(row.metrics.get(key, math.nan))]
    step, top, left = 28, 14, _gutter([row.name for row in shown])
    bottom = top + step * len(shown)
    root = drawing(bottom + 42, f"{metric_name(key)} {split_name(key)} of each model")
    ticks = nice_ticks(0.0, max((row.metrics[key] for row in shown), default=1.0), most=5)
    frame = Frame(
        left=left, top=top, right=WIDTH - 52, bottom=bottom,
        x_range=(0.0, ticks[-1]), y_range=(0.0, 1.0),
    )  # fmt: skip
    frame.draw_x(root, ticks, lambda value: f"{100 * value:g}", f"{metric_name(key)}, %")
    if reference is not None and reference in shown:
        at = frame.x(reference.metrics[key])
        add(root, "line", class_="rule", x1=at, x2=at, y1=top - 6, y2=bottom)
    for index, row in enumerate(shown):
        y, x = top + step * (index + 0.5), frame.x(row.metrics[key])
        add(root, "text", shortened(row.name, left - 12), class_="name end", x=left - 12, y=y + 4)
        add(root, "line", class_=f"stem {row.kind}", x1=frame.left, x2=x, y1=y, y2=y)
        value = percent(row.metrics[key])
        mark(root, row.kind, x, y, f"{row.name}: {value} %")
        add(root, "text", value, class_="value end", x=WIDTH - 6, y=y + 4)
    return markup(root)


def curve_chart(curves: Sequence[Curve], kinds: Mapping[str, Kind]) -> Markup:
    """The curves of one series, named at their right ends; `kinds` gives a curve its colour."""
    drawn = [(curve, points) for curve in curves if (points := _thinned(curve))]
    height = max(270, 15 * len(drawn) + 90)
    series = curves[0].series
    root = drawing(height, f"{metric_name(series)} {split_name(series)} over steps")
    if not drawn:
        return markup(root)
    values = [value for _, points in drawn for _, value in points]
    as_percent = is_fraction(series)
    y_ticks = nice_ticks(min(values), max(values), most=6)
    last_step = max(1.0, *(points[-1][0] for _, points in drawn))
    frame = Frame(
        left=46, top=34, right=WIDTH - 142, bottom=height - 48,
        x_range=(0.0, last_step), y_range=(y_ticks[0], y_ticks[-1]),
    )  # fmt: skip
    x_ticks = [tick for tick in nice_ticks(0.0, last_step, most=5) if tick <= last_step]
    frame.draw_x(root, x_ticks, plain, "steps")
    form = (lambda value: f"{100 * value:g}") if as_percent else plain
    frame.draw_y(root, y_ticks, form, f"{metric_name(series)}{', %' if as_percent else ''}")
    names = _spread([frame.y(points[-1][1]) for _, points in drawn], frame.top, frame.bottom)
    used: dict[Kind, int] = {}
    for (curve, points), name_y in zip(drawn, names, strict=True):
        default: Kind = "teacher" if curve.role == "teacher" else "distilled"
        kind = kinds.get(curve.name, default)
        dash = used[kind] = used.get(kind, -1) + 1
        _draw_curve(root, frame, curve.name, points, f"{kind} dash{dash % 4}", name_y)
    return markup(root)


def duration_chart(timings: Mapping[str, Number]) -> Markup:
    """One bar a stage."""
    step, longest, left = 26, max([1e-9, *timings.values()]), _gutter(list(timings))
    root = drawing(step * len(timings) + 8, "time of each stage")
    for index, (stage, seconds) in enumerate(timings.items()):
        y = step * (index + 0.5) + 4
        width = max(2.0, (WIDTH - left - 90) * seconds / longest)
        add(root, "text", shortened(stage, left - 12), class_="name end", x=left - 12, y=y + 4)
        bar = add(root, "rect", class_="bar", x=left, y=y - 6, width=width, height=12, rx=2)
        add(bar, "title", f"{stage}: {seconds:.2f} s")
        add(root, "text", duration(seconds), class_="value", x=left + width + 8, y=y + 4)
    return markup(root)


def _gutter(names: Sequence[str]) -> Number:
    """Room for the names left of a chart; longer ones are shortened."""
    return min(_LONGEST_NAME_PX, max((text_width(name) for name in names), default=0.0) + 18)


def _draw_curve(
    root: ET.Element,
    frame: Frame,
    name: str,
    points: Sequence[tuple[Number, Number]],
    style: str,
    name_y: Number,
) -> None:
    group = add(root, "g", class_=f"curve {style}")
    places = [(frame.x(step), frame.y(value)) for step, value in points]
    add(group, "path", d="M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places))
    for (x, y), (step, value) in zip(places, points, strict=True):
        dot = add(group, "circle", class_="hit", cx=x, cy=y, r=4)
        add(dot, "title", f"{name}, step {step:g}: {value:.4g}")
    x, y = places[-1]
    # A thin leader ties the name to its curve where crowding has moved it.
    add(
        group,
        "path",
        class_="leader",
        d=f"M{x + 3:.1f} {y:.1f}L{frame.right + 10:.1f} {name_y:.1f}",
    )
    label = add(
        group, "text", shortened(name, 122), class_="label", x=frame.right + 14, y=name_y + 4
    )
    add(label, "title", name)


def _thinned(curve: Curve) -> list[tuple[Number, Number]]:
    """At most 80 points, each the mean of its neighbourhood; what is not finite is dropped."""
    points = [
        (float(step), float(value))
        for step, value in zip(curve.steps, curve.values, strict=True)
        if math.isfinite(value)
    ]
    width = math.ceil(len(points) / _MOST_POINTS) or 1
    parts = [points[i : i + width] for i in range(0, len(points), width)]
    return [(part[-1][0], sum(value for _, value in part) / len(part)) for part in parts]


def _spread(
    wanted: Sequence[Number], top: Number, bottom: Number, gap: Number = 14.0
) -> list[Number]:
    """Move labels apart until none overlap, each as near as may be to where it wants to be."""
    order = sorted(range(len(wanted)), key=lambda index: wanted[index])
    placed = [wanted[index] for index in order]
    for i in range(1, len(placed)):
        placed[i] = max(placed[i], placed[i - 1] + gap)
    # Pushed out at the bottom: push back up.
    for i in range(len(placed) - 1, -1, -1):
        limit = bottom if i == len(placed) - 1 else placed[i + 1] - gap
        placed[i] = min(placed[i], limit)
    result = [0.0] * len(placed)
    for index, y in zip(order, placed, strict=True):
        result[index] = max(y, top)
    return result
