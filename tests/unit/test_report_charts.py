"""Ticks, places and labels of the charts, read back from the SVG."""

import math
import xml.etree.ElementTree as ET
from itertools import pairwise

import pytest

from distill.report import Curve, Row
from distill.report.axes import log_ticks, nice_ticks
from distill.report.charts import curve_chart, duration_chart, score_chart


def row(name, score, params=1000, **more):
    return Row(name=name, role="student", image_params=params, text_params=1, steps=1,
               metrics={"top1": score}, **more)  # fmt: skip


def texts(chart, style):
    return [e.text for e in ET.fromstring(chart).iter("text") if style in e.get("class", "")]


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [(0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1.0]), (0, 0.473, [0, 0.1, 0.2, 0.3, 0.4, 0.5]),
     (1.9, 6.1, [1, 2, 3, 4, 5, 6, 7]), (-3, 2, [-3, -2, -1, 0, 1, 2])],
)  # fmt: skip
def test_nice_ticks(low, high, ticks):
    assert nice_ticks(low, high) == ticks


@pytest.mark.parametrize("value", [0.0, 3.0, -2.5, 1e-9, 1e12])
def test_a_flat_range_still_has_an_axis(value):
    ticks = nice_ticks(value, value)
    assert ticks[0] <= value <= ticks[-1] and len(ticks) >= 2


@pytest.mark.parametrize(("low", "high"), [(400, 3_000_000), (5, 5), (9.9e5, 1e6), (1, 1e12)])
def test_log_ticks_cover_the_range(low, high):
    ticks = log_ticks(low, high)
    assert ticks[0] <= low and ticks[-1] >= high
    assert 2 <= len(ticks) <= 10


def test_score_chart_places_marks_by_score():
    chart = score_chart([row("half", 0.5), row("full", 1.0, distilled=True)], "top1")
    stems = [e for e in ET.fromstring(chart).iter("line") if "stem" in e.get("class", "")]
    (left, half), (_, full) = [(float(e.get("x1")), float(e.get("x2"))) for e in stems]
    assert (half - left) / (full - left) == pytest.approx(0.5, abs=0.005)
    assert texts(chart, "value") == ["50.0", "100.0"]


def test_scores_of_0_stay_in_the_frame():
    """All of them: an axis around 0 would begin at -100 %, left of the names."""
    chart = score_chart([row("none", 0.0), row("neither", 0.0)], "top1")
    assert texts(chart, "tick")[0] == "0"
    lines = [e for e in ET.fromstring(chart).iter("line")]
    stem = next(e for e in lines if "stem" in e.get("class", ""))
    assert min(float(e.get("x1")) for e in lines) == float(stem.get("x1"))


def test_kinds_differ_in_shape_and_not_in_colour_alone():
    rows = [row("a", 0.1), row("b", 0.2, control=True), row("c", 0.3, distilled=True)]
    rows.append(Row(name="t", role="teacher", image_params=9, text_params=9, steps=1,
                    metrics={"top1": 0.4}))  # fmt: skip
    marks = [e for e in ET.fromstring(score_chart(rows, "top1")).iter("g")]
    assert [e.get("class") for e in marks] == [f"mark {r.kind}" for r in rows]
    assert [e[1].tag for e in marks] == ["circle", "rect", "circle", "path"]
    # The two circles: a ring and a larger disc.
    assert marks[0][1].get("r") != marks[2][1].get("r")


def test_curves_are_thinned_to_means_and_end_at_the_last_step():
    steps = list(range(1, 161))
    curve = Curve(name="a", series="loss", steps=steps, values=[float(s % 2) for s in steps])
    dots = [e for e in ET.fromstring(curve_chart([curve], {})).iter("circle")]
    assert len(dots) == 80
    assert {dot[0].text.rpartition(": ")[2] for dot in dots} == {"0.5"}
    assert "step 160" in dots[-1][0].text


def test_curve_names_never_overlap_and_every_curve_is_named():
    curves = [
        Curve(name=f"c{i}", series="loss", steps=[1, 2], values=[2.0, 1.0]) for i in range(30)
    ]
    root = ET.fromstring(curve_chart(curves, {}))
    places = sorted(float(e.get("y")) for e in root.iter("text") if e.get("class") == "label")
    assert len(places) == 30
    assert min(b - a for a, b in pairwise(places)) >= 13.9
    assert places[-1] <= float(root.get("viewBox").split()[-1])


def test_curves_take_the_kind_of_the_model_of_their_name():
    curves = [
        Curve(name=n, series="loss", steps=[1, 2], values=[1, 2]) for n in ("a", "b", "other")
    ]
    root = ET.fromstring(curve_chart(curves, {"a": "control", "b": "control"}))
    styles = [e.get("class") for e in root.iter("g")]
    assert styles == ["curve control dash0", "curve control dash1", "curve distilled dash0"]


@pytest.mark.parametrize("values", [[math.nan, math.inf], [], [math.nan, 1.0]])
def test_what_is_not_finite_is_left_out(values):
    curve = Curve(name="a", series="loss", steps=list(range(len(values))), values=values)
    chart = curve_chart([curve], {})
    assert "nan" not in chart and "inf" not in chart
    assert "nan" not in score_chart([row("a", math.nan), row("b", 0.1)], "top1")


def test_names_are_escaped_and_cut():
    chart = score_chart([row("<script>alert(1)</script>" * 9, 0.5)], "top1")
    assert "<script" not in chart
    (name,) = texts(chart, "name")
    assert name.startswith("<script>") and name.endswith("\u2026") and len(name) < 40


def test_bars_are_as_long_as_the_stages():
    root = ET.fromstring(duration_chart({"a": 10, "b": 5.0, "nothing": 0}))
    a, b, nothing = (float(e.get("width")) for e in root.iter("rect"))
    assert a == pytest.approx(2 * b, abs=0.2) and 0 < nothing < 3
