"""Cost against score: places, the frontier, and what was measured under which name."""

import xml.etree.ElementTree as ET

import pytest

from distill.report import Measured, Row, TowerCost
from distill.report.pareto import (
    BYTES,
    LATENCY,
    PARAMETERS,
    Point,
    file_points,
    frontier,
    measured_points,
    parameter_points,
    pareto_chart,
)


def row(name, score, params=1000, **more):
    return Row(name=name, role="student", image_params=params, text_params=1, steps=1,
               metrics={"top1": score}, **more)  # fmt: skip


def drawn(rows):
    return ET.fromstring(pareto_chart(parameter_points(rows, "top1"), "top1", PARAMETERS))


def test_costs_are_logarithmic():
    root = drawn([row("s", 0.1, 10), row("m", 0.1, 100), row("l", 0.1, 1000)])
    small, middle, large = (float(e.get("cx")) for e in root.iter("circle"))
    assert middle - small == pytest.approx(large - middle, abs=0.2)


def test_labels_of_near_points_do_not_overlap():
    root = drawn([row(f"student-{i}", 0.4 + i / 500, 1000 + i) for i in range(9)])
    boxes = [(float(e.get("x")), float(e.get("y"))) for e in root.iter("text")
             if e.get("class") == "label"]  # fmt: skip
    assert boxes
    for i, (x, y) in enumerate(boxes):
        for other_x, other_y in boxes[:i]:
            assert abs(y - other_y) >= 13.9 or abs(x - other_x) >= 50


def test_the_frontier_is_what_nothing_beats_in_both():
    places = [("a", 1, 0.2), ("b", 2, 0.1), ("c", 2, 0.5), ("d", 3, 0.5), ("e", 9, 0.6)]
    points = [Point(name, "distilled", cost, score) for name, cost, score in places]
    assert [point.name for point in frontier(points)] == ["a", "c", "e"]
    root = ET.fromstring(pareto_chart(points, "top1", PARAMETERS))
    assert sum("beaten" in e.get("class", "") for e in root.iter("g")) == 2
    (stair,) = [e for e in root.iter("path") if e.get("class") == "frontier"]
    assert stair.get("d").count("H") == 2


def test_two_of_one_cost_and_one_score_are_both_on_the_frontier():
    places = [("a", 1, 0.2), ("b", 2, 0.5), ("c", 2, 0.5), ("d", 2, 0.4), ("e", 3, 0.5)]
    points = [Point(name, "distilled", cost, score) for name, cost, score in places]
    assert [point.name for point in frontier(points)] == ["a", "b", "c"]


def test_scores_of_0_are_on_an_axis_from_0():
    root = drawn([row("s", 0.0, 10), row("l", 0.0, 1000)])
    ticks = [e.text for e in root.iter("text") if e.get("class") == "tick end"]
    assert "0" in ticks and not any(tick.startswith("-") for tick in ticks)


def test_measurements_take_the_score_of_their_row():
    rows = [row("s", 0.4), row("nothing", float("nan"))]
    measured = [
        Measured(name="s", form="onnx", image=TowerCost(bytes=50, latency_ms=2.0)),
        Measured(name="s", form="litert", image=TowerCost(bytes=90), text=TowerCost(bytes=5)),
        Measured(name="s", form="onnx text only", text=TowerCost(bytes=7)),
        Measured(name="nothing", form="onnx", image=TowerCost(bytes=10, latency_ms=1.0)),
        Measured(name="s", form="onnx int8", rounded=True, image=TowerCost(bytes=5), metric="top1",
                 score=0.3, score_of_model=0.35),
    ]  # fmt: skip
    assert measured_points(rows, measured, "top1", LATENCY) == [
        Point("s, onnx", "undistilled", 2.0, 0.4)
    ]
    assert [p.cost for p in measured_points(rows, measured, "top1", BYTES)] == [50, 90]
    assert file_points(rows, measured, "top1", BYTES) == [
        Point("s, onnx int8", "undistilled", 5, 0.3)
    ]
    assert file_points(rows, measured, "image_to_text_r1", BYTES) == []
