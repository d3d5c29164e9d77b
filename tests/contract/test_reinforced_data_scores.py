"""Scores: a column of numbers on a finished store, out of a table or out of its own columns."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distill.cli import main
from reinforced_data import (
    ClipScore,
    ViewPolicy,
    add_scores,
    audit,
    open_dataset,
    read_scores,
    reinforce,
)
from reinforced_data.source import open_source
from reinforced_data.store.column_rows import ImageRows, TextRows
from reinforced_data.testing import sample, tiny_teacher, write_source

KEYS = [f"{number:04d}" for number in range(12)]
SHARD = 5


@pytest.fixture
def store(tmp_path) -> Path:
    """Twelve samples in three shards; number 3 has no picture, number 7 two captions."""
    samples = [sample(number) for number in range(12)]
    samples[3] = {**samples[3], "png": b"no picture"}
    samples[7] = {k: v for k, v in samples[7].items() if k != "txt"} | {
        "json": json.dumps({"captions": ["a red picture", "number 7"]})
    }
    write_source(tmp_path / "source", samples, samples_per_shard=SHARD)
    write(tmp_path)
    return tmp_path / "out"


def write(folder: Path) -> None:
    reinforce(
        folder / "source",
        folder / "out",
        teachers=tiny_teacher("one"),
        num_views=3,
        policy=ViewPolicy(scale=(0.4, 1.0), num_ops=1),
        codec="float32",
        progress=False,
    )


def files(store: Path) -> dict[Path, tuple[int, bytes]]:
    found = [path for path in store.rglob("*") if path.is_file()]
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in found}


def test_a_table_becomes_a_column_and_nothing_else_is_touched(store):
    before = files(store)
    table = {key: float(number) for number, key in enumerate(KEYS) if number != 5}
    report = add_scores(store, "quality", {**table, "elsewhere": 9.0}, progress=False)
    assert (report.samples, report.scored, report.shards, report.waiting) == (12, 10, 3, 0)
    assert report.skipped == {"no-score": 1}  # 5; number 3 has no picture and is not counted
    assert (report.minimum, report.maximum) == (0, 11)
    after = files(store)
    assert {path: after[path] for path in before} == before
    wanted = {key: score for key, score in table.items() if key != "0003"}
    assert dict(open_dataset(store).scores("quality")) == wanted
    assert audit(store, teachers=tiny_teacher("one")).ok
    # Training goes on without it: a score excludes no sample that it was not asked about.
    assert open_dataset(store).num_samples == 11


def test_the_same_call_resumes_and_another_is_refused(store):
    scores = dict.fromkeys(KEYS, 0.5)
    first = add_scores(store, "quality", scores, progress=False)
    (record,) = store.glob(f"commits/{first.column}/00001.json")
    data = json.loads(record.read_text())
    record.unlink()
    (store / data["data"]).unlink()
    again = add_scores(store, "quality", scores, progress=False)
    assert (again.shards_already_done, again.shards, again.scored) == (2, 3, first.scored)
    assert json.loads(record.read_text())["sha256"] == data["sha256"]
    with pytest.raises(ValueError, match="another score 'quality' already"):
        add_scores(store, "quality", {**scores, "0000": 0.6}, progress=False)
    add_scores(store, "other", {**scores, "0000": 0.6}, progress=False)
    with pytest.raises(ValueError, match="no score 'qualty'; did you mean 'quality'"):
        next(open_dataset(store).scores("qualty"))


def test_the_score_of_a_stored_teacher_is_the_mean_cosine_of_views_and_captions(store):
    report = add_scores(store, "clip", ClipScore(teacher="one"), progress=False)
    assert report.scored == 11 and report.skipped == {}
    opened = open_dataset(store)
    found, (teacher,) = dict(opened.scores("clip")), opened.teachers
    for one in open_source(store.parent / "source"):
        if one.key == "0003":
            continue
        shard, row = divmod(KEYS.index(one.key), SHARD)
        images = ImageRows(teacher.image, opened.store.rows(teacher.image, shard), 3)
        texts = TextRows(teacher.text, opened.store.rows(teacher.text, shard))
        cosines = [
            images.encoded(row, view) @ texts.encoded(row, caption)
            for view in range(3)
            for caption in range(len(one.captions))
        ]
        assert len(cosines) == (6 if one.key == "0007" else 3)
        assert found[one.key] == pytest.approx(float(np.mean(cosines)), abs=1e-6)
    assert len(found) == 11
    assert audit(store).ok


def test_what_is_not_there_yet_is_waited_for(store):
    (record,) = store.glob("commits/image-*/00001.json")
    record.unlink()
    report = add_scores(store, "clip", ClipScore(teacher="one"), progress=False)
    assert (report.shards, report.waiting) == (2, 1)
    write(store.parent)
    report = add_scores(store, "clip", ClipScore(teacher="one"), progress=False)
    assert (report.shards_already_done, report.shards, report.waiting) == (2, 3, 0)


def test_tables_of_every_format(tmp_path):
    wanted = {"a": 0.5, "b": -1.0}
    (tmp_path / "a.csv").write_text("key,score,more\na,0.5,x\nb,-1,y\nc,,z\n")
    (tmp_path / "a.tsv").write_text("id\tvalue\na\t0.5\nb\t-1\n")
    (tmp_path / "a.jsonl").write_text('{"__key__": "a", "q": 0.5}\n{"__key__": "b", "q": -1}\n')
    pq.write_table(pa.table({"key": ["a", "b"], "score": [0.5, -1.0]}), tmp_path / "a.parquet")
    for name, options in (("csv", {}), ("tsv", {}), ("jsonl", {"scores": "q"}), ("parquet", {})):
        assert read_scores(tmp_path / f"a.{name}", **options) == wanted


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "key,score\na,high\n", "line|row 2, key 'a': 'high' is no finite number"),
        ("a.csv", "key,score\na,nan\n", "is no finite number"),
        ("a.csv", "key,score\na,1\na,2\n", "the key 'a' comes twice"),
        ("a.csv", "key,score\n", "holds no scores"),
        ("a.csv", "key,quality\na,1\n", r"no column score or value; its columns are"),
        ("a.jsonl", "[1]\n", "is not a JSON object"),
        ("a.parquet", "x", "is no readable Parquet file"),
        ("a.txt", "x", "is no table"),
    ],
)
def test_tables_that_cannot_be_meant(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        read_scores(tmp_path / name)


def test_the_command(store, capsys):
    table = store.parent / "scores.csv"
    table.write_text("key,score\n" + "".join(f"{key},{i}\n" for i, key in enumerate(KEYS)))
    call = ["score", str(store), "--name", "quality", "--from", str(table)]
    assert main([*call, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["scored"], report["shards"]) == (11, 3)
    assert main(["score", str(store), "--name", "clip", "--teacher", "one"]) == 0
    assert "11 of 12 samples in 3 shards" in capsys.readouterr().out
    for wrong, message in (
        (["--from", str(table), "--teacher", "one"], "Give --from TABLE or --teacher NAME"),
        (["--teacher", "on"], "did you mean 'one'"),
        (["--name", "Bad Name", "--teacher", "one"], "a score's name is"),
    ):
        assert main(["score", str(store), "--name", "third", *wrong]) == 2
        assert message in " ".join(capsys.readouterr().err.split())
    table.write_text("key,score\nelsewhere,1\n")
    assert main(["score", str(store), "--name", "third", "--from", str(table)]) == 2
    assert "none of the 1 keys is one of" in " ".join(capsys.readouterr().err.split())
