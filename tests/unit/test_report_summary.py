"""Who is compared with whom, and the sentence that says so."""

import io
import math
from dataclasses import replace

import pytest
from rich.console import Console

from distill.report import Curve, ReportData, Row, print_rows, write_report
from distill.report.summary import kept, summarise


def row(name, top1, *, role="student", params=400_000, **more):
    metrics = {f"{split}/top1": v for split, v in zip(("pairs", "characters"), top1, strict=True)}
    return Row(name=name, role=role, image_params=params, text_params=1, steps=9,
               metrics=metrics, **more)  # fmt: skip


TEACHER = row("large", (0.5, 0.4), role="teacher", params=3_000_000)
SMALL_TEACHER = row("small", (0.6, 0.6), role="teacher", params=1_000_000)
DISTILLED = row("distilled", (0.45, 0.38), distilled=True)
TWIN = row("twin", (0.2, 0.3))
CONTROL = row("control", (0.41, 0.36), control=True)
ROWS = [SMALL_TEACHER, TEACHER, TWIN, CONTROL, DISTILLED]


def words(data):
    summary = summarise(data)
    return f"{summary.headline} {summary.detail}".replace("\u00a0", " ")


def test_the_sentence_has_every_number_of_the_result():
    text = words(ReportData(title="t", rows=ROWS))
    assert text == (
        "A student with 400 k image parameters, 7.5\u00d7 fewer than large, keeps 90 % of that"
        " teacher's top-1 on pairs and 95 % on characters. Distilled it reaches 45.0 % on pairs"
        " and 38.0 % on characters; its undistilled twin 20.0 and 30.0 %; the control 41.0 and"
        " 36.0 %."
    )


def test_the_reference_is_the_named_teacher():
    summary = summarise(ReportData(title="t", rows=ROWS, reference="small"))
    assert summary.reference is SMALL_TEACHER
    assert kept(DISTILLED, summary.reference, "pairs/top1") == pytest.approx(0.75)


def test_stated_retention_wins_over_our_own():
    stated = row("stated", (0.4, 0.4), distilled=True, retention={"pairs/top1": 0.77})
    assert kept(stated, TEACHER, "pairs/top1") == 0.77
    assert kept(stated, TEACHER, "characters/top1") == pytest.approx(1.0)


def test_students_are_compared_by_what_all_of_them_have():
    """A teacher was asked more than they were."""
    asked_more = replace(TEACHER, metrics={"imagenet/top1": 0.7, **TEACHER.metrics})
    summary = summarise(ReportData(title="t", rows=[asked_more, TWIN, CONTROL, DISTILLED]))
    assert summary.keys == ("pairs/top1", "characters/top1")
    assert summary.best is DISTILLED


def test_a_page_of_runs_that_nobody_evaluated(tmp_path):
    rows = [replace(one, metrics={}) for one in (TWIN, DISTILLED)]
    page = write_report(tmp_path / "report.html", ReportData(title="t", rows=rows))
    assert "over its undistilled twin" not in page.read_text()


def test_a_twin_of_other_splits_is_no_measured_gain(tmp_path):
    other = replace(TWIN, metrics={"imagenet/top1": 0.2})
    page = write_report(tmp_path / "report.html", ReportData(title="t", rows=[other, DISTILLED]))
    assert "over its undistilled twin" not in page.read_text()


def test_the_best_student_is_named_even_when_it_is_not_distilled():
    summary = summarise(ReportData(title="t", rows=[row("lucky", (0.9, 0.9)), *ROWS]))
    assert summary.best is not None and summary.best.name == "lucky"
    assert summary.student is DISTILLED
    assert "lucky" not in summary.headline


def test_the_twin_has_the_students_size():
    other = row("big undistilled", (0.44, 0.37), params=2_000_000)
    assert summarise(ReportData(title="t", rows=[other, *ROWS])).twin is TWIN


def test_a_student_whose_score_is_not_finite_is_not_the_best():
    broken = row("diverged", (math.nan, 0.9), distilled=True)
    assert summarise(ReportData(title="t", rows=[broken, *ROWS])).best is DISTILLED


@pytest.mark.parametrize(
    ("rows", "text"),
    [([], "the title"), ([DISTILLED], "45.0 % on pairs and 38.0 % on characters"),
     ([TEACHER], "large reaches 50.0 %"), ([TEACHER, TWIN], "keeps 40 % of that teacher's top-1")],
)  # fmt: skip
def test_less_than_everything_still_makes_a_sentence(rows, text):
    assert text in words(ReportData(title="the title", rows=rows))


def test_metrics_without_splits():
    plain = {"role": "student", "image_params": 9, "text_params": 9, "steps": 1}
    rows = [
        Row(name="t", **plain | {"role": "teacher"}, metrics={"top1": 0.5}),
        Row(name="s", **plain, metrics={"top1": 0.4}, distilled=True),
    ]
    text = words(ReportData(title="", rows=rows))
    assert text.strip() == "A student with 9 image parameters keeps 80 % of t's top-1."


@pytest.mark.parametrize("wrong", [{"role": "teacher"}, {"control": True}])
def test_a_distilled_row_is_nothing_else(wrong):
    with pytest.raises(ValueError, match="at once"):
        row("x", (0, 0), distilled=True, **wrong)


def test_a_reference_must_be_a_teacher_of_the_report():
    with pytest.raises(ValueError, match="'twin' is not among the teachers"):
        ReportData(title="t", rows=ROWS, reference="twin")


def test_a_curve_has_a_value_for_each_step():
    with pytest.raises(ValueError, match="2 steps and 1 values"):
        Curve(name="a", series="loss", steps=[1, 2], values=[0.5])


def test_the_terminal_keeps_to_the_pages_reference():
    """Of two teachers the given one, also where the other is larger."""
    out = io.StringIO()
    rows = [row("small", (0.9, 0.76), role="teacher", params=2_000_000), TEACHER, DISTILLED]
    print_rows(rows, Console(file=out, width=80), reference="small")
    assert "45.0 (50)" in out.getvalue() and "38.0 (50)" in out.getvalue()


def test_the_terminal_shows_names_as_they_are():
    out = io.StringIO()
    rows = [*ROWS, row("[red]evil[/red] \x1b[31m", (0.1, 0.1))]
    print_rows(rows, Console(file=out, width=80))
    text = out.getvalue()
    assert "[red]evil[/red]" in text and "\x1b" not in text
    assert "distilled *" in text and "45.0 (90)" in text and "38.0 (95)" in text
    assert max(map(len, text.splitlines())) <= 80
