"""Files of `distill evaluate --out` beside a report: whose they are, and what the page says."""

import json
from pathlib import Path

import pytest

from distill.report import Beyond, ReportData, Row, write_report
from distill.report.beyond import beyond_table
from distill.run_evaluations import more_scores, read_evaluations

LEAKS = [{"same_bytes": True}, {"same_bytes": False}, {"same_bytes": False}]
METRICS = {
    "val/top1": 0.5, "val/image_to_text_r1": 0.4, "val/contrastive_loss": 3.0, "val/samples": 9.0,
    "val/skipped": 0.0, "val/ece": 0.1, "val/corrupted/fog/top1": 0.2, "val/corrupted/top1": 0.2,
    "val/resolution/64/top1": 0.3, "val/size/96/top1": 0.35, "val/new/test": 0.7,
    "val/knn/top1": 0.6,
}  # fmt: skip


def written(folder, name="a.json", **changes):
    found = {"model": "ViT-B-16/openai", "metrics": METRICS, "retention": None, "more": 1} | changes
    path = folder / name
    path.write_text(json.dumps(found))
    return path


def test_a_published_model_has_a_row(tmp_path):
    (said,) = read_evaluations([written(tmp_path, audit={"val": {"leaks": LEAKS}})], {})
    row = said.row()
    assert (row.name, row.role, row.image_params, row.steps) == ("ViT-B-16/openai", "teacher", 0, 0)
    # Scores alone: no counts, no losses, no tests, and nothing that is not known here.
    assert row.metrics == {"val/top1": 0.5, "val/image_to_text_r1": 0.4}
    (beyond,) = said.beyond(row.metrics)
    tests = {key.removeprefix("val/"): x for key, x in METRICS.items()}
    names = ("top1", "ece", "corrupted/fog/top1", "corrupted/top1", "resolution/64/top1",
             "size/96/top1")  # fmt: skip
    assert beyond.scores == {name: tests[name] for name in names}
    assert (beyond.split, beyond.leaks, beyond.near_leaks) == ("val", 1, 2)


def test_an_audit_of_names_alone_says_nothing_of_leaks(tmp_path):
    (said,) = read_evaluations([written(tmp_path, audit={"val": {"alike": []}})], {})
    (beyond,) = said.beyond(said.row().metrics)
    assert beyond.leaks is None


def test_parameters_are_taken_where_a_file_has_them(tmp_path):
    files = [written(tmp_path), written(tmp_path, "b.json", image_params=86, text_params=38)]
    (said,) = read_evaluations(files, {})
    assert (said.row().image_params, said.row().text_params) == (86, 38)


def test_a_folder_on_the_page_gets_more_scores(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("runs/a", "other/a"):
        Path(folder).mkdir(parents=True)
    files = [written(tmp_path, f"{n}.json", model=m) for n, m in enumerate(["runs/a", "other/a"])]
    mine, other = read_evaluations(files, {tmp_path / "runs" / "a": "a"})
    assert (mine.name, mine.on_page) == ("a", True)
    # Its name is taken.
    assert (other.name, other.on_page) == (str(tmp_path / "other" / "a"), False)
    scores = more_scores({"val/top1": 0.45, "seen/top1": 0.9}, mine)
    assert scores == {"val/top1": 0.45, "val/image_to_text_r1": 0.4, "seen/top1": 0.9}
    assert next(mine.beyond(scores)).scores["top1"] == 0.45


def test_a_split_without_a_name_and_splits_with_slashes(tmp_path):
    plain = {"samples": 3.0, "top1": 0.5, "ece": 0.1, "corrupted/top1": 0.2}
    metrics = plain | {"a/b/samples": 3.0, "a/b/top1": 0.4, "a/b/typographic/fooled": 0.3}
    (said,) = read_evaluations([written(tmp_path, metrics=metrics)], {})
    assert said.metrics == {"top1": 0.5, "a/b/top1": 0.4}
    assert said.tests == {
        "": {"ece": 0.1, "corrupted/top1": 0.2},
        "a/b": {"typographic/fooled": 0.3},
    }


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "cannot be read"),
        ("[]", "holds no JSON object"),
        ('{"student": "runs/a"}', "names no model with metrics"),
        ('{"model": "a", "metrics": [1]}', "names no model with metrics"),
        ('{"model": "a", "metrics": {"top1": 1}}', "do not say of how many samples"),
        ('{"model": "a", "metrics": {"samples": 1}, "audit": {"": 3}}', "an audit of another kind"),
    ],
)
def test_what_is_no_evaluation_is_refused(tmp_path, text, says):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=f"{says}.*distill evaluate MODEL --on SHARDS --out"):
        read_evaluations([path], {})


def row(name):
    return Row(name=name, role="teacher", image_params=0, text_params=0, steps=0, metrics={})


def test_the_table_has_the_columns_that_somebody_has(tmp_path):
    found = [
        Beyond(
            name="a",
            split="val_2",
            scores={"ece": 0.04, "resolution/64/top1": 0.1, "size/64/top1": 0.3},
        ),
        Beyond(
            name="<b>", split="", scores={"resolution/128/top1": 0.2}, leaks=1_200, near_leaks=3
        ),
    ]
    rows = [row("a"), row("<b>")]
    table = beyond_table(found, rows)
    assert table.heads == [
        "calibration error",
        "128\u00a0px",
        "64\u00a0px",
        "at\u00a064\u00a0px",
        "leaks",
    ]
    assert [line.cells for line in table.rows] == [
        ["4.0", "\u2013", "10.0", "30.0", "\u2013"],
        ["\u2013", "20.0", "\u2013", "\u2013", "1,200 + 3"],
    ]
    assert [line.split for line in table.rows] == ["val 2", ""]
    assert [head for head, _ in table.meanings] == [
        "calibration error", "N\u00a0px", "at\u00a0N\u00a0px", "leaks"
    ]  # fmt: skip
    page = write_report(tmp_path / "p.html", ReportData(title="t", rows=rows, beyond=found))
    text = page.read_text()
    assert 'id="beyond"' in text and "&lt;b&gt;" in text and "<b>" not in text.split("<body>")[1]
    without = write_report(tmp_path / "q.html", ReportData(title="t", rows=rows)).read_text()
    assert 'id="beyond"' not in without
