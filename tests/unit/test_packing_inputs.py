"""`pack` on Parquet, Hugging Face datasets on disk and img2dataset's output."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from reinforced_data.packing.order import in_order
from reinforced_data.packing.packing import PackReport, pack
from reinforced_data.shard_writer import write_shards
from reinforced_data.source import open_source
from reinforced_data.testing import encoded, picture

PICTURE = pa.struct({"bytes": pa.binary(), "path": pa.string()})


def jpeg(number: int) -> bytes:
    return encoded(picture(number), "jpg")


def packed(out: Path) -> dict[str, Any]:
    return {sample.captions[0]: sample for sample in open_source(out)}


def assert_adds_up(report: PackReport) -> None:
    assert report.rows == report.samples + report.copies + sum(report.skipped.values())


# ------------------------------------------------------------------------------- Parquet


def picture_table(numbers: range, **more: list) -> pa.Table:
    rows = [{"bytes": jpeg(i), "path": f"{i}.jpg"} for i in numbers]
    texts = [f"picture {i}" for i in numbers]
    return pa.table({"image": pa.array(rows, PICTURE), "text": texts, **more})


def test_parquet_with_pictures_in_it_by_row_group(tmp_path):
    for part in range(2):
        table = picture_table(range(10 * part, 10 * part + 10))
        path = tmp_path / f"in/data/train-{part:05d}-of-00002.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, path, row_group_size=4)
    report = pack(tmp_path / "in", tmp_path / "out", samples_per_shard=8)
    assert (report.layout, report.samples, report.shards) == ("table", 20, 3)
    found = packed(tmp_path / "out")
    assert all(found[f"picture {i}"].image == jpeg(i) for i in range(20))
    order = [int(caption.split()[1]) for caption in found]
    assert order != sorted(order)
    pack(tmp_path / "in", tmp_path / "sorted", seed=None)
    assert list(packed(tmp_path / "sorted")) == [f"picture {i}" for i in range(20)]


def test_parquet_with_bytes_several_captions_and_bad_rows(tmp_path):
    table = pa.table(
        {
            "jpg": [jpeg(0), None, b"<html>", jpeg(3), b""],
            "captions": [["one", " "], ["x"], ["x"], None, ["x"]],
            "status": ["success"] * 5,
        }
    )
    pq.write_table(table, tmp_path / "t.parquet")
    report = pack(tmp_path / "t.parquet", tmp_path / "out")
    assert report.skipped == {"row has no picture": 1, "not-an-image": 2, "no caption": 1}
    assert_adds_up(report)
    assert report.examples["row has no picture"] == ["t.parquet, row group 0, row 1"]
    (sample,) = open_source(tmp_path / "out")
    assert (sample.captions, sample.image) == (("one",), jpeg(0))


def test_a_broken_row_group_is_counted_and_the_others_are_packed(tmp_path):
    path = tmp_path / "t.parquet"
    pq.write_table(picture_table(range(12)), path, row_group_size=4, compression="none")
    column = pq.read_metadata(path).row_group(1).column(0)
    data = bytearray(path.read_bytes())
    data[column.data_page_offset : column.data_page_offset + 40] = bytes(40)
    path.write_bytes(data)
    report = pack(path, tmp_path / "out")
    assert (report.samples, report.skipped) == (8, {"broken row group": 4})


def test_pictures_of_a_parquet_may_be_files(tmp_path):
    (tmp_path / "files").mkdir()
    (tmp_path / "files/a.jpg").write_bytes(jpeg(1))
    rows = [{"bytes": None, "path": "a.jpg"}, {"bytes": None, "path": "gone.jpg"}, None]
    table = pa.table({"image": pa.array(rows, PICTURE), "caption": ["a", "b", "c"]})
    pq.write_table(table, tmp_path / "t.parquet")
    report = pack(tmp_path / "t.parquet", tmp_path / "out", root=tmp_path / "files")
    assert report.skipped == {"missing file": 1, "row has no picture": 1}
    assert packed(tmp_path / "out")["a"].image == jpeg(1)


def test_several_columns_of_pictures_have_to_be_named(tmp_path):
    both = pa.array([{"bytes": jpeg(0), "path": None}], PICTURE)
    pq.write_table(pa.table({"left": both, "right": both, "text": ["x"]}), tmp_path / "t.parquet")
    with pytest.raises(ValueError, match=r"pictures in \['left', 'right'\]; name the column"):
        pack(tmp_path / "t.parquet", tmp_path / "out")
    assert pack(tmp_path / "t.parquet", tmp_path / "out", images="right").samples == 1


def test_windows_before_the_start_are_not_listed(monkeypatch, tmp_path):
    pq.write_table(picture_table(range(12)), tmp_path / "t.parquet", row_group_size=3)
    from reinforced_data.packing import order as packing_order
    from reinforced_data.packing.input_layouts import open_input
    from reinforced_data.packing.listing import Asked

    monkeypatch.setattr(packing_order, "WINDOW_BYTES", 1)
    parts = open_input(tmp_path / "t.parquet", "auto", None, Asked()).parts
    every = [row.captions for row in in_order(parts, 5)]
    assert sorted(every) != every and len(every) == 12
    read = []
    monkeypatch.setattr(pq.ParquetFile, "read_row_group", _noting(read))
    assert [row.captions for row in in_order(parts, 5, 7)] == every[7:]
    assert len(read) == 2


def _noting(read: list) -> Any:
    original = pq.ParquetFile.read_row_group

    def noted(self: pq.ParquetFile, *arguments: Any, **named: Any) -> pa.Table:
        read.append(arguments)
        return original(self, *arguments, **named)

    return noted


# ----------------------------------------------------------- Hugging Face datasets on disk


def save_to_disk(folder: Path, tables: list[pa.Table], features: dict | None = None) -> Path:
    """What `Dataset.save_to_disk` writes: Arrow streams, state.json and dataset_info.json."""
    folder.mkdir(parents=True)
    files = []
    for number, table in enumerate(tables):
        if features:
            about = {"huggingface": json.dumps({"info": {"features": features}})}
            table = table.replace_schema_metadata(about)
        files.append({"filename": f"data-{number:05d}-of-{len(tables):05d}.arrow"})
        with pa.ipc.new_stream(folder / files[-1]["filename"], table.schema) as writer:
            writer.write_table(table, max_chunksize=4)
    state = {"_data_files": files, "_fingerprint": "x", "_format_type": None, "_split": "train"}
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text(json.dumps({"features": features or {}}))
    return folder


def test_a_dataset_on_disk(tmp_path):
    tables = [picture_table(range(10)), picture_table(range(10, 14))]
    report = pack(save_to_disk(tmp_path / "in", tables), tmp_path / "out")
    assert (report.layout, report.samples, report.skipped) == ("huggingface", 14, {})
    found = packed(tmp_path / "out")
    assert all(found[f"picture {i}"].image == jpeg(i) for i in range(14))


def test_classes_of_a_dataset_are_named(tmp_path):
    features = {"label": {"_type": "ClassLabel", "names": ["tabby_cat", "dog"]}}
    table = picture_table(range(3), label=[1, 0, -1]).drop_columns("text")
    report = pack(save_to_disk(tmp_path / "in", [table], features), tmp_path / "out")
    assert report.skipped == {"no caption": 1}
    samples = {(s.label, *s.captions) for s in open_source(tmp_path / "out")}
    assert samples == {("dog", "a photo of a dog"), ("tabby_cat", "a photo of a tabby cat")}


def test_of_several_splits_one_has_to_be_named(tmp_path):
    for split, numbers in {"train": range(5), "test": range(5, 7)}.items():
        save_to_disk(tmp_path / "in" / split, [picture_table(numbers)])
    (tmp_path / "in/dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    with pytest.raises(ValueError, match=r"splits \['train', 'test'\]; say which one: --split tr"):
        pack(tmp_path / "in", tmp_path / "out")
    with pytest.raises(ValueError, match=r"no split 'tset'; did you mean 'test'"):
        pack(tmp_path / "in", tmp_path / "out", split="tset")
    assert pack(tmp_path / "in", tmp_path / "out", split="test").samples == 2
    with pytest.raises(ValueError, match="without splits; leave out"):
        pack(tmp_path / "in/train", tmp_path / "two", split="train")


def test_a_dataset_with_a_broken_file_is_refused_by_name(tmp_path):
    folder = save_to_disk(tmp_path / "in", [picture_table(range(9))])
    file = folder / "data-00000-of-00001.arrow"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"data-00000-of-00001.arrow is no readable Arrow stream"):
        pack(folder, tmp_path / "out")
    file.unlink()
    with pytest.raises(ValueError, match=r"data-00000-of-00001.arrow is no readable Arrow stream"):
        pack(folder, tmp_path / "out")


# ------------------------------------------------------------------------- img2dataset


def download(folder: Path, shard: int, numbers: range, *, as_files: bool = False) -> None:
    """One shard as img2dataset writes it; every fifth picture was not downloaded."""
    rows, samples = [], []
    for i in numbers:
        key, failed = f"{shard:05d}{i:04d}", i % 5 == 4
        row = {"url": f"http://x/{i}", "caption": f"picture {i}", "key": key}
        row["status"] = "failed_to_download" if failed else "success"
        rows.append(row)
        if not failed:
            members = {"jpg": jpeg(i), "txt": row["caption"], "json": json.dumps(row)}
            samples.append({"__key__": key, **members})
    pq.write_table(pa.Table.from_pylist(rows), folder / f"{shard:05d}.parquet")
    stats = {"count": len(rows), "successes": len(samples)}
    (folder / f"{shard:05d}_stats.json").write_text(json.dumps(stats))
    if not as_files:
        (tar,) = write_shards(folder / "tmp", samples, samples_per_shard=100)
        tar.rename(folder / f"{shard:05d}.tar")
        (folder / "tmp").rmdir()
        return
    (folder / f"{shard:05d}").mkdir()
    for sample in samples:
        for extension in ("jpg", "txt", "json"):
            data = sample[extension]
            path = folder / f"{shard:05d}" / f"{sample['__key__']}.{extension}"
            path.write_bytes(data if isinstance(data, bytes) else data.encode())


@pytest.mark.parametrize("as_files", [False, True], ids=["webdataset", "files"])
def test_what_img2dataset_has_downloaded(tmp_path, as_files):
    (tmp_path / "in").mkdir()
    download(tmp_path / "in", 0, range(10), as_files=as_files)
    download(tmp_path / "in", 1, range(10, 17), as_files=as_files)
    report = pack(tmp_path / "in", tmp_path / "out")
    assert report.layout == "img2dataset"
    assert (report.rows, report.samples) == (17, 14)
    assert report.skipped == {"failed_to_download": 3}
    name = "00000" if as_files else "00000.tar"
    assert f"{name}:000000004" in report.examples["failed_to_download"]
    found = packed(tmp_path / "out")
    assert all(found[f"picture {i}"].image == jpeg(i) for i in range(17) if i % 5 < 4)


def test_a_download_that_was_cut_is_counted(tmp_path):
    (tmp_path / "in").mkdir()
    download(tmp_path / "in", 0, range(4))
    download(tmp_path / "in", 1, range(4))
    tar = tmp_path / "in/00001.tar"
    tar.write_bytes(tar.read_bytes()[:-12_000])
    (tmp_path / "in/00002.tar").write_bytes(b"not a tar")
    report = pack(tmp_path / "in", tmp_path / "out")
    assert report.skipped == {"truncated-shard": 1, "broken-shard": 1}
    assert_adds_up(report)


def test_a_caption_of_the_json_where_there_is_no_text_file(tmp_path):
    (tmp_path / "in").mkdir()
    download(tmp_path / "in", 0, range(3), as_files=True)
    for path in (tmp_path / "in/00000").glob("*.txt"):
        path.unlink()
    assert pack(tmp_path / "in", tmp_path / "out").samples == 3


# ------------------------------------------------------------------------- what is it?


def test_what_could_be_several_things_is_refused(tmp_path):
    (tmp_path / "in").mkdir()
    download(tmp_path / "in", 0, range(3))
    (tmp_path / "in/x.jpg").write_bytes(jpeg(0))
    (tmp_path / "in/x.txt").write_text("x")
    message = r"several things: 'img2dataset': it has 00000.tar; 'folder': it has x.jpg. Say which"
    with pytest.raises(ValueError, match=message):
        pack(tmp_path / "in", tmp_path / "out")
    assert pack(tmp_path / "in", tmp_path / "out", layout="folder").samples == 1


def test_shards_are_packed_again_only_when_asked(tmp_path):
    write_shards(
        tmp_path / "in",
        [{"__key__": "a", "jpg": jpeg(0), "txt": "a", "cls": "cat"}],
        samples_per_shard=9,
    )
    with pytest.raises(ValueError, match="holds shards already"):
        pack(tmp_path / "in", tmp_path / "out")
    pack(tmp_path / "in", tmp_path / "out", layout="img2dataset")
    (sample,) = open_source(tmp_path / "out")
    assert (sample.image, sample.label) == (jpeg(0), "cat")


@pytest.mark.parametrize("layout", ["table", "img2dataset", "huggingface"])
def test_a_layout_that_the_input_cannot_have(tmp_path, layout):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/x.jpg").write_bytes(jpeg(0))
    with pytest.raises(ValueError, match=r"does not fit|no dataset on disk"):
        pack(tmp_path / "in", tmp_path / "out", layout=layout)
