"""`pack`: shrinking, copies, limits; every row is accounted for."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from distill.cli import main
from reinforced_data.packing.packing import pack
from reinforced_data.packing.resizing import Resize, parse_resize, shrink
from reinforced_data.source import Sample, decode_image, open_source
from reinforced_data.testing import encoded, picture


def put(folder: Path, pictures: dict[str, bytes], captions: dict[str, str] | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    for name, data in pictures.items():
        (folder / name).write_bytes(data)
        caption = name if captions is None else captions.get(name, "")
        (folder / name).with_suffix(".txt").write_text(caption)
    return folder


def by_path(out: Path) -> dict[str, Sample]:
    return {sample.captions[0]: sample for sample in open_source(out)}


def saved(image: Image.Image, kind: str, **how: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **how)
    return file.getvalue()


@pytest.mark.parametrize(
    ("rule", "size", "expected"),
    [
        ("shorter:10", (40, 20), (20, 10)),
        ("longer:10", (40, 20), (10, 5)),
        ("longer:10", (9, 10), (9, 10)),
        ("shorter:10", (1000, 9), (1000, 9)),
        ("longer:10", (3000, 1), (10, 1)),
    ],
)
def test_sizes(rule, size, expected):
    found = parse_resize(rule)
    assert found is not None and found.size(*size) == expected


@pytest.mark.parametrize("rule", ["512", "shorter", "shorter:0", "wider:5", "longer:-1", ""])
def test_rules_that_are_none(rule, tmp_path):
    with pytest.raises(ValueError, match="resize must be none, shorter:PIXELS or longer:PIXELS"):
        pack(put(tmp_path / "in", {"a.jpg": b"x"}), tmp_path / "out", resize=rule)


def test_only_what_is_too_large_is_encoded_anew(tmp_path):
    large, small = picture(1, 160, 80), picture(2, 64, 32)
    files = {
        "large1.jpg": encoded(large, "jpg"),
        "large2.png": encoded(large, "png"),
        "large3.webp": encoded(large, "webp"),
        "small1.jpg": encoded(small, "jpg"),
        "small2.png": encoded(small, "png"),
    }
    report = pack(put(tmp_path / "in", files), tmp_path / "out", resize="longer:64")
    assert (report.samples, report.shrunk) == (5, 3)
    found = by_path(tmp_path / "out")
    assert [found[name].image == data for name, data in files.items()] == [False] * 3 + [True] * 2
    kinds = {name: sample.extension for name, sample in found.items()}
    assert kinds["large2.png"] == "png" and kinds["large3.webp"] == "jpg"
    wanted = np.asarray(large.resize((64, 32), Image.Resampling.LANCZOS), np.float64)
    for name in ("large1.jpg", "large2.png", "large3.webp"):
        image = decode_image(found[name].image)
        assert image.size == (64, 32)
        assert np.abs(np.asarray(image, np.float64) - wanted).mean() < 4, name


def test_quality_is_that_of_the_jpegs():
    data = encoded(picture(1, 64, 64), "jpg")
    rule = Resize(side="longer", pixels=48)
    sizes = [len(shrink(data, rule, quality=quality)) for quality in (30, 95)]
    assert sizes[0] < sizes[1]


def test_odd_pictures_are_shrunk_as_they_are_read(tmp_path):
    """What training would see of the whole picture, it sees of the shrunk one."""
    image = picture(3, 128, 128)
    layer = image.convert("RGBA")
    layer.putalpha(128)
    grey16 = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    files = {
        "cmyk.jpg": saved(image.convert("CMYK"), "JPEG", quality=95),
        "deep.png": saved(grey16, "PNG"),
        "clear.png": saved(layer, "PNG"),
        "moving.webp": saved(
            image, "WEBP", save_all=True, append_images=[picture(4, 128, 128)], lossless=True
        ),
        "turned.jpg": saved(image, "JPEG", quality=95, exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12"
                            b"\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"),
    }  # fmt: skip
    report = pack(put(tmp_path / "in", files), tmp_path / "out", resize="shorter:64")
    assert (report.samples, report.shrunk) == (5, 5)
    for name, sample in by_path(tmp_path / "out").items():
        whole = decode_image(files[name]).resize((64, 64), Image.Resampling.LANCZOS)
        difference = np.asarray(whole, np.float64) - np.asarray(decode_image(sample.image))
        assert np.abs(difference).mean() < 4, name


def test_larger_pictures_than_wanted_are_left_out(tmp_path):
    files = {"a.png": encoded(picture(1, 40, 30)), "b.png": encoded(picture(2, 10, 10))}
    report = pack(put(tmp_path / "in", files), tmp_path / "out", max_pixels=1000)
    assert report.skipped == {"too-many-pixels": 1}
    with pytest.raises(ValueError, match="max_pixels must be 1 to 67108864"):
        pack(tmp_path / "in", tmp_path / "two", max_pixels=1 << 27)
    assert pack(tmp_path / "in", tmp_path / "two", max_pixels=1 << 27, resize="longer:99").samples


# Three pictures; the first comes three times, the last twice.
COPIES = {
    f"{name}.png": encoded(picture(number))
    for name, number in {"a": 1, "b": 1, "c": 2, "d": 1, "e": 3, "f": 3}.items()
}
TEXTS = {"a.png": "one", "b.png": "two", "c.png": "other", "d.png": "one", "f.png": "last"}


def test_copies_are_kept_unless_asked(tmp_path):
    report = pack(put(tmp_path / "in", COPIES, TEXTS), tmp_path / "out", seed=None)
    assert (report.samples, report.copies, report.skipped) == (5, 0, {"no caption": 1})


def test_the_first_copy_is_kept(tmp_path):
    folder = put(tmp_path / "in", COPIES, TEXTS)
    report = pack(folder, tmp_path / "out", seed=None, deduplicate="drop", samples_per_shard=2)
    assert (report.rows, report.samples, report.copies) == (6, 3, 2)
    assert [s.captions for s in open_source(tmp_path / "out")] == [("one",), ("other",), ("last",)]
    assert json.loads((tmp_path / "out/pack.json").read_text())["copies"] == 2


def test_captions_of_copies_are_merged(tmp_path):
    folder = put(tmp_path / "in", COPIES, TEXTS)
    report = pack(folder, tmp_path / "out", seed=None, deduplicate="merge")
    assert (report.rows, report.samples, report.copies) == (6, 3, 2)
    found = [sample.captions for sample in open_source(tmp_path / "out")]
    assert found == [("one", "two"), ("other",), ("last",)]
    shuffled = pack(folder, tmp_path / "shuffled", deduplicate="merge")
    assert shuffled.samples == 3
    texts = {frozenset(sample.captions) for sample in open_source(tmp_path / "shuffled")}
    assert texts == {frozenset(captions) for captions in found}


def test_half_a_character_is_no_caption(tmp_path):
    (tmp_path / "a.png").write_bytes(encoded(picture(1)))
    rows = [{"path": "a.png", "caption": text} for text in ("fine", "half \ud800")]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert pack(tmp_path / "t.jsonl", tmp_path / "out").skipped == {"bad-text": 1}


def test_the_command_prints_the_counts(tmp_path, capsys):
    put(tmp_path / "in", {**COPIES, "large.jpg": encoded(picture(9, 90, 90), "jpg")}, None)
    command = ["pack", str(tmp_path / "in"), str(tmp_path / "out")]
    assert main([*command, "--deduplicate", "drop", "--resize", "longer:64"]) == 0
    said = capsys.readouterr().out
    assert "4 pictures in 1 shards" in said and "from 7 rows (folder)" in said
    assert "3 copies of pictures dropped" in said and "1 pictures shrunk to longer:64" in said
    (tmp_path / "in/bad.png").write_bytes(b"bad")
    (tmp_path / "in/bad.txt").write_text("bad")
    command[-1] = str(tmp_path / "two")
    assert main([*command, "--json"]) == 3
    values = json.loads(capsys.readouterr().out)
    assert values["skipped"] == {"not-an-image": 1} and values["rows"] == 8
