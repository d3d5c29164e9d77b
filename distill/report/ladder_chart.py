"""A ladder as a chart: a row a line, its mean as a mark and two standard errors either way."""

from collections.abc import Sequence

from markupsafe import Markup

from distill.report.axes import Frame, nice_ticks, plain
from distill.report.data import Kind
from distill.report.ladder import Group, Ladder, LadderRow
from distill.report.svg import WIDTH, add, drawing, mark, markup, shortened, text_width
from distill.report.wording import metric_name, split_name

_STEP, _TOP, _LONGEST_NAME_PX = 24, 14, 190
# What rows of the same work, or of other steps, are held against.
_REFERENCES = ("distilled", "vit")
_KINDS: dict[str, Kind] = {"undistilled": "undistilled", "control": "control"}


def ladder_chart(ladder: Ladder, groups: Sequence[Group], key: str) -> Markup:
    """Draw the rows of some groups on one metric; the first base's mean is a dashed rule."""
    beside = () if "equal steps" in groups else _REFERENCES
    rows = [
        row
        for row in ladder.rows
        if key in row.scores and (row.group in groups or row.name in beside)
    ]
    left = min(_LONGEST_NAME_PX, max((text_width(row.name) for row in rows), default=0.0) + 18)
    bottom = _TOP + _STEP * len(rows)
    root = drawing(bottom + 42, f"{metric_name(key)} {split_name(key)} of each row")
    if not rows:
        return markup(root)
    spans = [_span(row, key) for row in rows]
    low, high = min(low for low, _ in spans), max(high for _, high in spans)
    ticks = nice_ticks(max(0.0, low), min(100.0, high), most=5)
    frame = Frame(
        left=left, top=_TOP, right=WIDTH - 52, bottom=bottom,
        x_range=(min(ticks[0], low), max(ticks[-1], high)), y_range=(0.0, 1.0),
    )  # fmt: skip
    frame.draw_x(root, ticks, plain, f"{metric_name(key)}, %")
    base = next((row for row in ladder.rows if row.name in ladder.bases[:1]), None)
    if base is not None and key in base.scores and low <= base.scores[key].mean <= high:
        at = frame.x(base.scores[key].mean)
        add(root, "line", class_="rule", x1=at, x2=at, y1=_TOP - 6, y2=bottom)
    for index, (row, (start, stop)) in enumerate(zip(rows, spans, strict=True)):
        y, mean = _TOP + _STEP * (index + 0.5), row.scores[key].mean
        name = shortened(row.name, left - 12)
        kind = "teacher" if row.group == "teachers" else _KINDS.get(row.name, "distilled")
        add(root, "text", name, class_="name end", x=left - 12, y=y + 4)
        add(root, "line", class_=f"error {kind}", x1=frame.x(start), x2=frame.x(stop), y1=y, y2=y)
        mark(root, kind, frame.x(mean), y, f"{row.name}: {mean:.2f} %")
        add(root, "text", f"{mean:.1f}", class_="value end", x=WIDTH - 6, y=y + 4)
    return markup(root)


def _span(row: LadderRow, key: str) -> tuple[float, float]:
    score = row.scores[key]
    return score.mean - 2 * (score.error or 0.0), score.mean + 2 * (score.error or 0.0)
