"""What a model costs against what it scores, and which ones no other beats in both."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from markupsafe import Markup

from distill.report.axes import Frame, log_ticks, nice_ticks
from distill.report.data import Kind, Measured, Number, Row
from distill.report.labels import Box, label_point
from distill.report.svg import WIDTH, add, drawing, mark, markup, shortened
from distill.report.wording import count, metric_name, milliseconds, percent, size, split_name, tick


class Point(NamedTuple):
    """One model in one form: its cost (above 0) and its score."""

    name: str
    kind: Kind
    cost: Number
    score: Number


class Cost(NamedTuple):
    """What is on the horizontal axis, and how its values are written."""

    title: str
    form: Callable[[Number], str]
    tick: Callable[[Number], str]


PARAMETERS = Cost("image parameters", count, tick)
BYTES = Cost("size of the image tower", lambda value: size(int(value)), lambda v: f"{tick(v)}B")
LATENCY = Cost("time of one picture", milliseconds, lambda value: f"{value:g}\u00a0ms")


def parameter_points(rows: Sequence[Row], key: str) -> list[Point]:
    """Every row that has a score and parameters."""
    return [
        Point(row.name, row.kind, row.image_params, row.metrics[key])
        for row in rows
        if math.isfinite(row.metrics.get(key, math.nan)) and row.image_params > 0
    ]


def measured_points(
    rows: Sequence[Row], measured: Sequence[Measured], key: str, cost: Cost
) -> list[Point]:
    """Every measured form that computes what its row does, with the row's score."""
    by_name = {row.name: row for row in rows}
    found = []
    for each in measured:
        row = by_name[each.name]
        value, score = _cost_of(each, cost), row.metrics.get(key, math.nan)
        if value and math.isfinite(score) and not each.rounded:
            found.append(Point(f"{each.name}, {each.form}", row.kind, value, score))
    return found


def file_points(
    rows: Sequence[Row], measured: Sequence[Measured], metric: str, cost: Cost
) -> list[Point]:
    """Every form that was evaluated itself, with its own score."""
    kinds: dict[str, Kind] = {row.name: row.kind for row in rows}
    found = []
    for each in measured:
        value = _cost_of(each, cost)
        if value and each.metric == metric and each.score is not None:
            name = f"{each.name}, {each.form}" if len(kinds) > 1 else each.form
            found.append(Point(name, kinds[each.name], value, each.score))
    return found


def _cost_of(measured: Measured, cost: Cost) -> Number | None:
    tower = measured.image
    return tower and (tower.latency_ms if cost is LATENCY else tower.bytes)


def frontier(points: Sequence[Point]) -> list[Point]:
    """Those that no other matches at a lower cost, or beats at the same: cheapest first.

    Of several with one cost and one score all stay.
    """
    best: list[Point] = []
    for point in sorted(points, key=lambda p: (p.cost, -p.score)):
        if not best or point.score > best[-1].score or point[2:] == best[-1][2:]:
            best.append(point)
    return best


def pareto_chart(
    points: Sequence[Point], key: str, cost: Cost, *, from_zero: bool = True
) -> Markup:
    """Cost (logarithmic) against score; a line joins the frontier, the others are pale.

    Scores begin at 0 or, to tell near ones apart, near the least.
    """
    root = drawing(300, f"{cost.title} against {metric_name(key)} {split_name(key)}")
    if not points:
        return markup(root)
    costs, scores = [point.cost for point in points], [point.score for point in points]
    x_ticks = log_ticks(min(costs), max(costs))
    least = 0.0 if from_zero else min(scores) - max(0.01, (max(scores) - min(scores)) / 4)
    y_ticks = nice_ticks(min(max(0.0, least), *scores), max(scores), most=6)
    frame = Frame(
        left=40, top=34, right=WIDTH - 24, bottom=252, log_x=True,
        x_range=(min(x_ticks[0], min(costs) / 1.4), max(x_ticks[-1], max(costs) * 1.4)),
        y_range=(y_ticks[0], y_ticks[-1]),
    )  # fmt: skip
    frame.draw_x(root, x_ticks, cost.tick, cost.title)
    frame.draw_y(root, y_ticks, lambda value: f"{100 * value:g}", f"{metric_name(key)}, %")
    best = frontier(points)
    if len(best) > 1:
        # A stair: at a cost in between, the cheaper one is what there is.
        stair = f"M{frame.x(best[0].cost):.1f} {frame.y(best[0].score):.1f}"
        stair += "".join(f"H{frame.x(p.cost):.1f}V{frame.y(p.score):.1f}" for p in best[1:])
        add(root, "path", class_="frontier", d=stair)
    places = [(frame.x(point.cost), frame.y(point.score)) for point in points]
    taken: list[Box] = [(x - 7, y - 7, 14.0, 14.0) for x, y in places]
    for point, (x, y) in zip(points, places, strict=True):
        title = f"{point.name}: {cost.form(point.cost)}, {percent(point.score)} %"
        drawn = mark(root, point.kind, x, y, title)
        if point not in best:
            drawn.set("class", f"{drawn.get('class')} beaten")
        label_point(root, shortened(point.name, 200), x, y, taken)
    return markup(root)
