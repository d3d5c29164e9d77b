"""The ladder's table as the report reads and draws it: the benchmark's own, and a toy."""

import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from distill.report import find_ladders, read_ladder
from distill.report.ladder import GROUPS
from distill.report.ladder_chart import ladder_chart
from distill.report.page import _ladder

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
HEAD = (
    "row,metric,mean,standard_error,seeds,scores,minus_undistilled,verdict,minus_control,"
    "verdict_control,learning_rate,steps,image_params,seconds\n"
)
TABLE = (
    HEAD
    + "large,held/top1,60.00,,1,60.00,,,,,,2700,353120,9\n"
    + "undistilled,held/top1,40.00,1.00,3,39 40 41,,,-2.00,loses,0.004,400,9,9\n"
    + "vit-<b>,held/top1,45.00,0.50,3,44 45 46,5.00,wins,3.00,noise,0.004,400,9,9\n"
    + "vit-<b>-same-work,held/top1,47.00,nan,1,47,7.00,one seed,5.00,one seed,0.004,733,9,9\n"
    + "# commit abc, torch 2\n"
)


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "ladder-toy.csv"
    path.write_text(TABLE)
    return path


def test_rows_differences_and_groups_are_the_tables(table):
    ladder = read_ladder(table)
    assert (ladder.name, ladder.origin) == ("toy", "commit abc, torch 2")
    assert ladder.bases == ["undistilled", "control"] and ladder.metrics == ["held/top1"]
    assert {row.name: row.group for row in ladder.rows} == {
        "large": "teachers",
        "undistilled": "equal steps",
        "vit-<b>": "equal steps",
        "vit-<b>-same-work": "equal compute",
    }
    scores = {row.name: row.scores["held/top1"] for row in ladder.rows}
    assert scores["vit-<b>"].minus == {"undistilled": (5.0, "wins"), "control": (3.0, "noise")}
    assert scores["undistilled"].minus == {"control": (-2.0, "loses")}
    assert scores["vit-<b>"].error == 0.5
    assert scores["large"].error is None and scores["vit-<b>-same-work"].error is None


def test_rows_of_other_steps_stand_apart(table):
    """Fewer or more than the rows that all are compared with: their scores cost other work."""
    early = "early,held/top1,30.00,0.50,3,29 30 31,-10.00,loses,-12.00,loses,0.004,100,9,9\n"
    table.write_text(TABLE.replace("# commit", f"{early}# commit"))
    ladder = read_ladder(table)
    assert [row.name for row in ladder.of("other steps")] == ["early"]
    assert [row.name for row in ladder.of("equal steps")] == ["undistilled", "vit-<b>"]
    page = _ladder(ladder)
    assert [name for name, _ in page["charts"]] == ["Equal steps", "Equal compute", "Other steps"]
    assert [group for group, _ in page["groups"]] == list(GROUPS)


def test_bars_are_two_errors_and_the_rule_is_the_first_base(table):
    root = ET.fromstring(ladder_chart(read_ladder(table), ["teachers", "equal steps"], "held/top1"))
    lines = [e for e in root.iter("line") if "error" in e.get("class", "")]
    spans = [float(e.get("x2")) - float(e.get("x1")) for e in lines]
    # Errors of 0, 1 and 0.5 points.
    assert spans[0] == 0 and spans[1] == pytest.approx(2 * spans[2], abs=0.3) and spans[2] > 5
    (rule,) = [e for e in root.iter("line") if e.get("class") == "rule"]
    middle = (float(lines[1].get("x1")) + float(lines[1].get("x2"))) / 2
    assert float(rule.get("x1")) == pytest.approx(middle, abs=0.1)
    assert "same-work" not in ET.tostring(root, encoding="unicode")


@pytest.mark.parametrize("name", ["glyphs", "emoji64"])
def test_the_benchmarks_own_tables_are_read(name):
    assert RESULTS / f"ladder-{name}.csv" in find_ladders(RESULTS)
    (path,) = find_ladders(RESULTS / f"ladder-{name}")
    ladder = read_ladder(path)
    names = [row.name for row in ladder.rows]
    assert {"teacher-a", "undistilled", "control", "distilled"} <= set(names)
    assert [row.name for row in ladder.of("teachers")] == ["teacher-a", "teacher-b"]
    assert all(set(row.scores) <= set(ladder.metrics) for row in ladder.rows)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a,b\n1,2\n", "lacks the columns row, metric"),
        (HEAD + "x,held/top1,much,,1,,,,,,,9,9,9\n", "could not convert"),
        (None, "is no ladder: name a table"),
    ],
)
def test_input_of_a_ladder_is_refused(tmp_path, text, says):
    path = tmp_path / "ladder-x.csv"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ValueError, match=says):
        read_ladder(find_ladders(path)[0])
