"""`pack`: every kind of input, bytes untouched, the unusable counted, the same bytes twice."""

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from distill.cli import main
from reinforced_data.packing.packing import pack
from reinforced_data.source import Sample, open_source


def image_bytes(kind: str, seed: int = 0) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (9, 11, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def put(path: Path, content: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def packed(out: Path) -> dict[str, Sample]:
    """Samples by caption."""
    return {sample.captions[0]: sample for sample in open_source(out)}


@pytest.fixture
def captioned(tmp_path) -> Path:
    """Three good pictures of three formats, one named wrongly, and one of each kind of trouble."""
    folder = tmp_path / "pictures"
    for i, (name, kind) in enumerate(
        [("a.jpg", "JPEG"), ("b.PNG", "PNG"), ("deep/c.webp", "WEBP")]
    ):
        put(folder / name, image_bytes(kind, i))
        put((folder / name).with_suffix(".txt"), f" picture {name[-6:]}\n")
    put(folder / "really_png.jpg", image_bytes("PNG", 9))
    put(folder / "really_png.txt", "\ufeffpicture wrongly named, caf\u00e9")
    put(folder / "alone.jpg", image_bytes("JPEG"))
    put(folder / "broken.png", b"\x89PNG\r\n\x1a\nbroken")
    put(folder / "broken.txt", "broken")
    put(folder / "text.jpg", b"<html>")
    put(folder / "text.txt", "a web page")
    put(folder / "latin.jpg", image_bytes("JPEG"))
    put(folder / "latin.txt", "caf\u00e9".encode("latin-1"))
    put(folder / ".hidden" / "x.jpg", image_bytes("JPEG"))
    put(folder / "._a.jpg", b"resource fork")
    return folder


def test_folder_with_captions_beside_the_images(captioned, tmp_path):
    report = pack(captioned, tmp_path / "out")
    assert report.layout == "folder"
    assert (report.samples, report.shards) == (4, 1)
    assert report.skipped == {
        "no caption": 1,
        "undecodable": 1,
        "not-an-image": 1,
        "unreadable caption file": 1,
    }
    assert report.examples["no caption"] == ["alone.jpg"]
    samples = packed(tmp_path / "out")
    assert samples["picture a.jpg"].image == (captioned / "a.jpg").read_bytes()
    assert samples["picture c.webp"].image == (captioned / "deep/c.webp").read_bytes()
    wrong = samples["picture wrongly named, caf\u00e9"]
    assert wrong.image == (captioned / "really_png.jpg").read_bytes()
    assert wrong.extension == "png"
    written = json.loads((tmp_path / "out" / "pack.json").read_text())
    assert written["skipped"] == report.skipped


def test_class_folders(tmp_path):
    for i in range(6):
        put(tmp_path / "in" / f"golden_retriever/{i}.jpg", image_bytes("JPEG", i))
        put(tmp_path / "in" / f"cat/deep/{i}.png", image_bytes("PNG", i))
    report = pack(tmp_path / "in", tmp_path / "out", template="art of the {}", samples_per_shard=5)
    assert (report.layout, report.classes, report.samples, report.shards) == ("classes", 2, 12, 3)
    samples = list(open_source(tmp_path / "out"))
    assert {(s.label, *s.captions) for s in samples} == {
        ("golden retriever", "art of the golden retriever"),
        ("cat", "art of the cat"),
    }
    assert len({s.key for s in samples}) == 12
    # Shuffled: a shard of one class could not be mixed by a reader.
    assert {s.label for s in samples[:5]} == {"golden retriever", "cat"}


def test_input_order_is_kept_on_request(tmp_path):
    for i in range(12):
        put(tmp_path / "in" / f"{i:02d}.jpg", image_bytes("JPEG", i))
        put(tmp_path / "in" / f"{i:02d}.txt", f"{i:02d}")
    pack(tmp_path / "in", tmp_path / "out", seed=None)
    assert list(packed(tmp_path / "out")) == [f"{i:02d}" for i in range(12)]


def write_table(folder: Path, suffix: str, rows: list[dict]) -> Path:
    for row in rows:
        put(folder / "images" / Path(row["path"]).name, image_bytes("JPEG", len(row["path"])))
    table = folder / f"table{suffix}"
    if suffix == ".jsonl":
        put(table, "\n".join(json.dumps(row) for row in rows))
    elif suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), table)
    else:
        mark = "," if suffix == ".csv" else "\t"
        lines = [mark.join(rows[0]), *(mark.join(f'"{x}"' for x in r.values()) for r in rows)]
        put(table, "\n".join(lines))
    return table


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_tables(tmp_path, suffix):
    rows = [
        {"path": "images/one.jpg", "caption": "a cat, asleep", "label": "cat"},
        {"path": "images/three.jpg", "caption": "a dog", "label": "dog"},
    ]
    table = write_table(tmp_path, suffix, rows)
    report = pack(table, tmp_path / "out")
    assert (report.layout, report.samples, report.classes) == ("table", 2, 2)
    samples = packed(tmp_path / "out")
    assert samples["a cat, asleep"].label == "cat"
    assert samples["a dog"].image == (tmp_path / "images/three.jpg").read_bytes()


def test_named_columns_root_and_several_captions(tmp_path):
    put(tmp_path / "elsewhere" / "x.jpg", image_bytes("JPEG"))
    row = {"img": "x.jpg", "alt": ["first", " ", "second"], "kind": 3}
    table = put(tmp_path / "t.jsonl", json.dumps(row))
    pack(
        table,
        tmp_path / "out",
        images="img",
        captions="alt",
        labels="kind",
        root=tmp_path / "elsewhere",
    )
    (sample,) = open_source(tmp_path / "out")
    assert (sample.captions, sample.label) == (("first", "second"), "3")


def test_bad_rows_are_counted(tmp_path):
    good = {"path": "good.jpg", "caption": "good"}
    rows = [good, {"path": "gone.jpg", "caption": "x"}, {"caption": "x"}, {"path": "good.jpg"}]
    put(tmp_path / "good.jpg", image_bytes("JPEG"))
    (tmp_path / "folder.jpg").mkdir()
    rows.append({"path": "folder.jpg", "caption": "x"})
    lines = [*map(json.dumps, rows), "{broken", "[1]"]
    report = pack(put(tmp_path / "t.jsonl", "\n".join(lines)), tmp_path / "out")
    assert report.samples == 1
    assert report.skipped == {
        "missing file": 1,
        "row has no path": 1,
        "no caption": 1,
        "unreadable file": 1,
        "line is not a JSON object": 2,
    }
    assert "t.jsonl:3" in report.examples["row has no path"]


def test_verify_finds_what_headers_do_not_show(tmp_path):
    whole = image_bytes("PNG")
    put(tmp_path / "in/cut.png", whole[: len(whole) // 2])
    put(tmp_path / "in/cut.txt", "cut")
    put(tmp_path / "in/whole.png", whole)
    put(tmp_path / "in/whole.txt", "whole")
    assert pack(tmp_path / "in", tmp_path / "quick").samples == 2
    assert pack(tmp_path / "in", tmp_path / "sure", verify=True).skipped == {"undecodable": 1}


def test_twice_the_same_bytes(captioned, tmp_path):
    pack(captioned, tmp_path / "one", samples_per_shard=2)
    pack(captioned, tmp_path / "two", samples_per_shard=2)
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert names == ["00000.tar", "00001.tar", "pack.json"]
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"captions": "captoin"},
            r"no column 'captoin'; did you mean 'caption'\? Its columns are \['file', 'caption'\]",
        ),
        ({"labels": "class"}, r"no column 'class'"),
        ({"layout": "folder"}, r"layout 'folder' does not fit .* looks like 'table'"),
        ({"layout": "tables"}, r"no layout 'tables'; did you mean 'table'"),
        ({"samples_per_shard": 0}, r"samples_per_shard must be at least 1"),
    ],
)
def test_wrong_arguments_leave_nothing_behind(tmp_path, change, message):
    put(tmp_path / "x.jpg", image_bytes("JPEG"))
    table = put(tmp_path / "t.csv", "file,caption\nx.jpg,a cat\n")
    with pytest.raises(ValueError, match=message):
        pack(table, tmp_path / "out", **change)
    assert {path.name for path in tmp_path.iterdir()} == {"x.jpg", "t.csv"}


@pytest.mark.parametrize("url", ["s3://bucket/x", "hf://datasets/a/b", Path("s3://bucket/x")])
def test_urls_are_refused_and_no_folder_is_made_of_them(tmp_path, monkeypatch, url):
    monkeypatch.chdir(tmp_path)
    put(tmp_path / "in/x.jpg", image_bytes("JPEG"))
    put(tmp_path / "in/x.txt", "a cat")
    said = r"is a URL, and packing .* Copy what is to be packed here first"
    with pytest.raises(ValueError, match=rf"input '(s3|hf):/.* {said}"):
        pack(url, tmp_path / "out")
    with pytest.raises(ValueError, match=rf"out '(s3|hf):/.* {said}"):
        pack(tmp_path / "in", url)
    assert main(["pack", str(tmp_path / "in"), str(url)]) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_unusable_inputs(tmp_path):
    put(tmp_path / "noname.csv", "a,b\n1,2\n")
    put(tmp_path / "empty.csv", "")
    put(tmp_path / "latin.csv", "path,caption\nx,caf\u00e9\n".encode("latin-1"))
    put(tmp_path / "notes.md", "x")
    put(tmp_path / "bare/x.jpg", image_bytes("JPEG"))
    (tmp_path / "nothing").mkdir()
    for name, message in {
        "noname.csv": r"no column path or file or filepath or image; its columns are \['a', 'b'\]",
        "empty.csv": "has no rows",
        "latin.csv": "is not UTF-8",
        "notes.md": "neither a folder nor a table",
        "gone": "does not exist",
        "nothing": "holds no jpg, jpeg, png, webp files",
        "bare": r"nothing of .*bare \(taken as 'folder'\) could be packed: 1 x no caption",
    }.items():
        with pytest.raises(ValueError, match=message):
            pack(tmp_path / name, tmp_path / "out")
    with pytest.raises(ValueError, match="where the class name goes"):
        pack(tmp_path / "bare", tmp_path / "out", layout="classes", template="a photo")
    assert not list(tmp_path.glob("*out*"))


def test_out_that_holds_something_is_left_alone(captioned, tmp_path):
    put(tmp_path / "out/mine.txt", "mine")
    with pytest.raises(ValueError, match="already holds something"):
        pack(captioned, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]
