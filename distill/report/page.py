"""The HTML page: ready values for the template, which holds the words and the order.

Captions and names may come from anyone: autoescape is on, pictures are checked, and the page
forbids itself scripts and any request (Content-Security-Policy).
"""

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from distill.report import wording
from distill.report.beyond import beyond_table
from distill.report.charts import curve_chart, duration_chart, score_chart
from distill.report.confusion_chart import confusion_chart
from distill.report.data import Curve, ImageToTextCase, Kind, ReportData, RetrievalCase, Row
from distill.report.ladder import GROUPS, Ladder
from distill.report.ladder_chart import ladder_chart
from distill.report.pareto import (
    BYTES,
    LATENCY,
    PARAMETERS,
    Cost,
    Point,
    file_points,
    measured_points,
    parameter_points,
    pareto_chart,
)
from distill.report.pictures import picture_uri
from distill.report.summary import Summary, kept, summarise
from distill.report.svg import legend_icon

# What it is of, the drawing, and a few words more.
Chart = tuple[str, Markup, str]
_KINDS: tuple[Kind, ...] = ("teacher", "distilled", "control", "undistilled")
_FILTERS = ("percent", "count", "size", "memory", "duration", "milliseconds", "scientific",
            "points_lost", "known", "split_name", "metric_name", "printable")  # fmt: skip


def environment(package: str = "distill.report") -> Environment:
    """Templates of a package, which may include the report's own; everything is escaped."""
    folders = [PackageLoader(name, ".") for name in (package, "distill.report")]
    made = Environment(
        loader=ChoiceLoader(folders),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {name: getattr(wording, name) for name in _FILTERS}
    # Whatever is printed: captions, names, paths.
    made.finalize = _clean
    return made


def render(data: ReportData) -> str:
    """The page as text."""
    summary = summarise(data)
    return (
        environment()
        .get_template("page.html.j2")
        .render(
            data=data,
            summary=summary,
            tiles=_tiles(data, summary),
            legend=[(kind, legend_icon(kind)) for kind in _KINDS if _has(data.rows, kind)],
            table=[_table_row(row, summary) for row in data.rows],
            table_keys=_table_keys(data.rows, summary),
            all_keys=list(dict.fromkeys(key for row in data.rows for key in row.metrics)),
            score_charts=_score_charts(data, summary),
            cost_charts=_cost_charts(data, summary),
            beyond=beyond_table(data.beyond, data.rows),
            ladders=[_ladder(ladder) for ladder in data.ladders],
            confusion_chart=data.confusion_matrix and confusion_chart(data.confusion_matrix),
            curve_charts=_curve_charts(data),
            duration_chart=duration_chart(data.timings) if data.timings else None,
            several_models=len({case.model for case in data.retrieval}) > 1,
            text_cases=[_text_case(c) for c in data.retrieval if isinstance(c, RetrievalCase)],
            image_cases=[_image_case(c) for c in data.retrieval if isinstance(c, ImageToTextCase)],
        )
    )


def _clean(value: Any) -> Any:
    return wording.printable(value) if type(value) is str else value


def _has(rows: Sequence[Row], kind: Kind) -> bool:
    return any(row.kind == kind for row in rows)


def _tiles(data: ReportData, summary: Summary) -> list[tuple[str, str, str]]:
    """(label, large number, small print): at most five."""
    student, reference, twin = summary.student, summary.reference, summary.twin
    tiles = []
    if student and reference:
        for key in summary.keys[:2]:
            where = wording.split_name(key)
            share = wording.percent(kept(student, reference, key), digits=0)
            scores = [wording.percent(row.metrics.get(key)) for row in (student, reference)]
            tiles.append(
                (f"kept, {where}" if where else "kept", f"{share}\u00a0%", " of ".join(scores))
            )
        ratio = reference.image_params / max(1, student.image_params)
        if ratio > 1.05:
            sizes = [wording.count(row.image_params) for row in (student, reference)]
            label = " of ".join(sizes) + " parameters"
            tiles.append(("smaller image tower", f"{ratio:.1f}\u00d7", label))
    shared = student.metrics.keys() & twin.metrics.keys() if student and twin else ()
    key = next((key for key in summary.keys if key in shared), None)
    if student and twin and key:
        # No -0.0.
        gain = round(100 * (student.metrics[key] - twin.metrics[key]), 1) + 0.0
        label = " ".join((wording.metric_name(key), wording.split_name(key)))
        tiles.append(("over its undistilled twin", f"{gain:+.1f}".replace("-", "\u2212"), label))
    for export in [export for export in data.exports if "image" in export.tower][:1]:
        speed = wording.milliseconds(export.latency_ms)
        tiles.append((f"{export.format}, image tower", wording.size(export.bytes), speed))
    return tiles


def _table_keys(rows: Sequence[Row], summary: Summary) -> list[tuple[str, list[str]]]:
    """Columns of the main table, by split: the headline metric and top-5."""
    every = dict.fromkeys(key for row in rows for key in row.metrics)
    chosen = [key for key in every if key in summary.keys or key.rpartition("/")[2] == "top5"]
    chosen.sort(key=lambda key: list(dict.fromkeys(map(wording.split_name, every))).index(
        wording.split_name(key)))  # fmt: skip
    return [(split, list(keys)) for split, keys in groupby(chosen, wording.split_name)]


def _table_row(row: Row, summary: Summary) -> dict[str, Any]:
    shares = {key: kept(row, summary.reference, key) for key in summary.keys}
    named = (("best student", summary.best), ("reference", summary.reference))
    tags = [name for name, other in named if row is other]
    return {"row": row, "kept": shares, "tags": tags, "icon": legend_icon(row.kind)}


def _score_charts(data: ReportData, summary: Summary) -> list[Chart]:
    charts = (score_chart(data.rows, key, reference=summary.reference) for key in summary.keys)
    return [(key, chart, "") for key, chart in zip(summary.keys, charts, strict=True)]


def _cost_charts(data: ReportData, summary: Summary) -> list[list[Chart]]:
    """One line of charts a cost; dots of one cost, or of one score, are left out."""
    lines = []
    for cost in (PARAMETERS, LATENCY, BYTES):
        line = []
        for key in summary.keys:
            points = parameter_points(data.rows, key)
            if cost is not PARAMETERS:
                points = measured_points(data.rows, data.measured, key, cost)
            line += _cost_chart(points, key, cost, f"by {cost.title}", from_zero=True)
        lines.append(line)
    for metric in dict.fromkeys(each.metric for each in data.measured if each.metric):
        line = []
        for cost in (LATENCY, BYTES):
            points = file_points(data.rows, data.measured, metric, cost)
            note = f"of each file, by {cost.title}"
            line += _cost_chart(points, metric, cost, note, from_zero=False)
        lines.append(line)
    return list(filter(None, lines))


def _cost_chart(
    points: Sequence[Point], key: str, cost: Cost, note: str, *, from_zero: bool
) -> list[Chart]:
    one_row = cost is not PARAMETERS and len({point.score for point in points}) < 2
    if one_row or len({point.cost for point in points}) < 2:
        return []
    return [(key, pareto_chart(points, key, cost, from_zero=from_zero), note)]


def _curve_charts(data: ReportData) -> list[Chart]:
    kinds: dict[str, Kind] = {row.name: row.kind for row in data.rows}
    groups: dict[str, list[Curve]] = {}
    for curve in data.curves:
        groups.setdefault(curve.series, []).append(curve)
    return [(series, curve_chart(curves, kinds), "") for series, curves in groups.items()]


def _ladder(ladder: Ladder) -> dict[str, Any]:
    """Charts of equal steps, of equal compute and of neither; teachers stand in the first."""
    keys = [key for key in ladder.metrics if key.rpartition("/")[2] == "top1"] or ladder.metrics[:1]
    charts = []
    named = {"Equal steps": GROUPS[:2], "Equal compute": GROUPS[2:3], "Other steps": GROUPS[3:]}
    for name, groups in named.items():
        if any(ladder.of(group) for group in groups):
            charts.append((name, [(key, ladder_chart(ladder, groups, key), "") for key in keys]))
    groups = [(group, ladder.of(group)) for group in GROUPS if ladder.of(group)]
    return {"table": ladder, "shown": keys, "charts": charts, "groups": groups}


def _text_case(case: RetrievalCase) -> dict[str, Any]:
    images = [(picture_uri(image), caption, hit) for image, caption, hit in case.images]
    return {
        "query": case.query_text,
        "images": images,
        "model": case.model,
        "rank": case.rank,
        "among": case.among,
    }


def _image_case(case: ImageToTextCase) -> dict[str, Any]:
    return {
        "image": picture_uri(case.image),
        "caption": case.caption,
        "texts": list(case.texts),
        "model": case.model,
        "rank": case.rank,
        "among": case.among,
    }
