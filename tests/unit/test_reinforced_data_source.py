"""Shards are read with byte offsets, and what is broken is noticed."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from reinforced_data.source import (
    BrokenShard,
    UnreadableImage,
    decode_image,
    expand_sources,
    image_size,
    open_source,
    read_shard,
    scan_shard,
)
from reinforced_data.testing import encoded, picture, sample, write_source


def make_tar(path: Path, members: list[tuple[str, bytes]]) -> str:
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return str(path)


def scan(path: str, **options) -> list:
    return list(scan_shard(path, **options))


def test_offsets_point_at_the_image(tmp_path):
    shards = write_source(tmp_path, 7, samples_per_shard=4)
    samples = list(open_source(tmp_path))
    assert [s.key for s in samples] == [f"{i:04d}" for i in range(7)]
    for number, found in enumerate(samples):
        data = Path(shards[number // 4]).read_bytes()
        assert data[found.offset : found.offset + found.size] == found.image
        assert found.image == encoded(picture(number))
        assert (found.extension, len(found.captions), found.label) == ("png", 1, None)


def test_keys_keep_the_folder_and_end_at_the_first_dot(tmp_path):
    png = encoded(picture(0))
    path = make_tar(
        tmp_path / "a.tar",
        [("x/a.b/1.png", png), ("x/a.b/1.txt", b"one"), ("x/2.PNG", png), ("x/2.seg.png", b"no")],
    )
    first, second = scan(path)
    assert (first.key, first.captions) == ("x/a.b/1", ("one",))
    assert (second.key, second.image, second.captions) == ("x/2", png, ())


@pytest.mark.parametrize(
    ("members", "captions_from", "captions", "label"),
    [
        ({"txt": " a cat \n"}, None, ("a cat",), None),
        ({"json": json.dumps({"captions": ["a", "b"], "label": 3})}, None, ("a", "b"), "3"),
        ({"json": json.dumps({"caption": "c"}), "cls": "7\n"}, None, ("c",), "7"),
        ({"txt": "t", "json": json.dumps({"caption": "c"})}, None, ("t",), None),
        ({"txt": "t", "json": json.dumps({"alt": ["x", "", 5]})}, "json:alt", ("x",), None),
        ({"txt": "t", "alt.txt": "other"}, "alt.txt", ("other",), None),
        ({"txt": "  "}, None, (), None),
    ],
)
def test_captions_and_labels(tmp_path, members, captions_from, captions, label):
    content = {"__key__": "k", "png": encoded(picture(0)), **members}
    (path,) = write_source(tmp_path, [content])
    (found,) = read_shard(path, captions_from=captions_from)
    assert (found.captions, found.label) == (captions, label)


def test_unusable_samples_keep_their_rows_and_say_why(tmp_path):
    png = encoded(picture(0))
    path = make_tar(
        tmp_path / "a.tar",
        [
            ("0.txt", b"no image"),
            ("1.png", png),
            ("1.txt", b"\xff\xfe"),
            ("2.png", png),
            ("2.json", b"{"),
            ("3.png", png),
            ("4.png", png),
            ("3.txt", b"too late"),
            ("5.png", png),
            ("5.png", png),
            ("6.png", png),
        ],
    )
    problems = ["no-image", "bad-text", "bad-text", None, None, "interleaved-key"]
    assert [s.problem for s in scan(path)] == [*problems, "duplicate-member", None]
    assert [s.key for s in read_shard(path)] == ["3", "4", "6"]
    source = open_source(path)
    assert len(list(source)) == 3
    assert source.skipped == {
        "no-image": 1,
        "bad-text": 2,
        "interleaved-key": 1,
        "duplicate-member": 1,
    }


def test_foreign_members_are_never_read(tmp_path):
    foreign = [("1.pyd", b"cos\n"), ("1.png", b"cos\n"), ("no_extension", b""), ("._1.png", b"")]
    path = make_tar(tmp_path / "a.tar", foreign)
    assert [(s.key, s.problem) for s in scan(path)] == [("1", None)]


def test_a_compressed_tar_is_refused(tmp_path):
    write_source(tmp_path, 2)
    with tarfile.open(tmp_path / "z.tar", "w:gz") as tar:
        tar.add(tmp_path / "00000.tar", "0.png")
    with pytest.raises(BrokenShard, match="uncompressed"):
        scan(str(tmp_path / "z.tar"))


def test_expand_sources(tmp_path):
    shards = write_source(tmp_path / "s", 12, samples_per_shard=1)
    folder = tmp_path / "s"
    assert expand_sources(folder) == shards
    assert expand_sources(f"{folder}/{{00002..00004}}.tar") == shards[2:5]
    assert expand_sources(f"{folder}/0000{{3,1}}.tar") == [shards[3], shards[1]]
    assert expand_sources(f"{folder}/*1.tar") == [shards[1], shards[11]]
    assert expand_sources([shards[5], Path(shards[0])]) == [shards[5], shards[0]]
    assert expand_sources(f"file://{shards[3]}") == [shards[3]]


@pytest.mark.parametrize("pattern", ["{folder}/none.tar", "{folder}/x*.tar", "{folder}", []])
def test_sources_that_are_not_there(tmp_path, pattern):
    (tmp_path / "empty").mkdir()
    if pattern:
        pattern = pattern.format(folder=tmp_path / "empty")
    with pytest.raises(ValueError, match=r"does not exist or holds no|no source shards"):
        expand_sources(pattern)


def test_a_shard_named_twice_is_refused(tmp_path):
    (path,) = write_source(tmp_path, 2)
    with pytest.raises(ValueError, match="more than once"):
        expand_sources([path, path])


def test_jpeg_pixels_are_pillows():
    for seed in range(5):
        for mode in ("RGB", "L"):
            data = encoded(picture(seed, 130, 75).convert(mode), "jpg")
            expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
            np.testing.assert_array_equal(np.asarray(decode_image(data)), expected)


def test_images_of_all_modes_become_rgb():
    base = picture(1)
    for mode in ("1", "L", "P", "RGB", "CMYK"):
        extension = "jpg" if mode == "CMYK" else "png"
        image = decode_image(encoded(base.convert(mode), extension))
        assert (image.mode, image.size) == ("RGB", base.size)
    grey = np.linspace(0, 65535, 12).astype(np.uint16).reshape(3, 4)
    image = decode_image(encoded(Image.fromarray(grey)))
    np.testing.assert_array_equal(np.asarray(image)[..., 0], grey >> 8)


@pytest.mark.parametrize("extension", ["png", "webp"])
def test_transparency_is_white(extension):
    image = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    assert decode_image(encoded(image, extension)).getpixel((0, 0)) == (255, 255, 255)


def test_palette_transparency_is_white():
    image = Image.new("P", (4, 4), 0)
    image.putpalette([10, 20, 30, 200, 0, 0])
    image.putpixel((0, 0), 1)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", transparency=0)
    decoded = decode_image(buffer.getvalue())
    assert decoded.getpixel((0, 0)) == (200, 0, 0)
    assert decoded.getpixel((1, 1)) == (255, 255, 255)


@pytest.mark.parametrize("extension", ["png", "jpg", "webp"])
def test_bombs_are_refused_before_decoding(extension):
    data = encoded(Image.new("L", (400, 300)), extension)
    assert image_size(data) == (400, 300)
    with pytest.raises(UnreadableImage, match="400 x 300") as error:
        decode_image(data, max_pixels=119_999)
    assert error.value.reason == "too-many-pixels"
    assert decode_image(data, max_pixels=120_000).size == (400, 300)


@pytest.mark.parametrize("extension", ["png", "jpg", "webp"])
def test_broken_images_are_refused(extension):
    data = encoded(picture(0, 200, 200), extension)
    for broken in (data[: len(data) // 2], data[:20]):
        with pytest.raises(UnreadableImage) as error:
            decode_image(broken)
        assert error.value.reason == "undecodable"
    with pytest.raises(UnreadableImage) as error:
        decode_image(b"GIF89a" + data)
    assert error.value.reason == "not-an-image"


def test_sample_of_the_testing_module_is_usable(tmp_path):
    (path,) = write_source(tmp_path, [sample(3, txt="x")])
    assert next(read_shard(path)).captions == ("x",)
