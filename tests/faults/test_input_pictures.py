"""Odd pictures are read right, broken ones counted, bombs refused before a pixel is decoded."""

import io
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image

from reinforced_data import open_dataset, reinforce
from reinforced_data.decoding import MAX_SIDE, UnreadableImage, decode_image, image_size
from reinforced_data.testing import as_picture, encoded, picture, sample, tiny_teacher, write_source
from reinforced_data.views import View, render_view
from teachers import Preprocess


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds nothing."""
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), (b"IEND", b"")]
    body = b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body


def webp_bomb(side: int) -> bytes:
    """An animation of 90 bytes with one frame of 16 x 16 on an enormous canvas."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return name + struct.pack("<I", len(data)) + data + bytes(len(data) % 2)

    buffer = io.BytesIO()
    Image.new("RGB", (16, 16)).save(buffer, "WEBP", lossless=True)
    canvas = struct.pack("<I", side - 1)[:3] * 2
    frame = bytes(6) + struct.pack("<I", 15)[:3] * 2 + struct.pack("<I", 10)[:3] + b"\0"
    body = chunk(b"VP8X", b"\x02\0\0\0" + canvas) + chunk(b"ANIM", bytes(6))
    body += chunk(b"ANMF", frame + buffer.getvalue()[12:])
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def animated(extension: str) -> bytes:
    buffer = io.BytesIO()
    frames = [Image.new("RGB", (20, 10), colour) for colour in ("red", "blue")]
    frames[0].save(buffer, extension, save_all=True, append_images=frames[1:], lossless=True)
    return buffer.getvalue()


BOMBS = {
    "png": png_header(30_000, 30_000),
    "long png": png_header(1, MAX_SIDE + 1),
    "webp": webp_bomb(16_383),
    "middling webp": webp_bomb(9_000),
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_from_their_headers(name):
    for read in (image_size, decode_image):
        with pytest.raises(UnreadableImage, match=r"pixels|the limit") as error:
            read(BOMBS[name])
        assert error.value.reason == "too-many-pixels"


_MEASURE = """
import io, resource, sys
from PIL import Image
from reinforced_data.decoding import UnreadableImage, decode_image
bombs = []
for kind, mode in (("PNG", "1"), ("JPEG", "L")):
    buffer = io.BytesIO()
    Image.new(mode, (1, 1)).save(buffer, kind)
    bombs.append(sys.stdin.buffer.read(int(sys.stdin.buffer.readline())))
    try:
        decode_image(buffer.getvalue())
    except UnreadableImage:
        raise SystemExit("the decoder itself is broken")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for bomb in bombs:
    try:
        decode_image(bomb)
        raise SystemExit("a bomb was decoded")
    except UnreadableImage as error:
        assert error.reason == "too-many-pixels", error
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_a_bomb_costs_no_memory():
    """13,000 x 13,000 pixels in 20 kB took webdataset and Pillow to 845 MiB."""
    bombs = []
    for kind, mode in (("PNG", "1"), ("JPEG", "L")):
        buffer = io.BytesIO()
        Image.new(mode, (13_000, 13_000)).save(buffer, kind)
        bombs.append(b"%d\n" % len(buffer.getvalue()) + buffer.getvalue())
    command = [sys.executable, "-c", _MEASURE]
    done = subprocess.run(command, input=b"".join(bombs), capture_output=True, check=True)
    assert int(done.stdout) < 20_000, "kB"


def test_odd_pictures_are_kept_and_broken_ones_counted(tmp_path):
    base = picture(1, 40, 30)
    grey = np.linspace(0, 65535, 1200).astype(np.uint16).reshape(30, 40)
    kept = {
        "jpg": encoded(base.convert("CMYK"), "jpg"),
        "png": encoded(Image.fromarray(grey)),
        "webp": animated("webp"),
    }
    odd = [{"__key__": f"odd-{name}", name: data, "txt": "odd"} for name, data in kept.items()]
    png = [encoded(base.convert(mode)) for mode in ("1", "P", "LA", "RGBA")] + [animated("png")]
    odd += [{"__key__": f"png-{i}", "png": data, "txt": "odd"} for i, data in enumerate(png)]
    whole = encoded(base, "jpg")
    bad = {
        "undecodable": [whole[: len(whole) // 2], encoded(base)[:200], b"\xff\xd8\xff" + bytes(50)],
        "not-an-image": [b"<html>", b"", b"GIF89a" + bytes(50), b"%PDF-1.7", b"\x80\x04pickle"],
        "too-many-pixels": list(BOMBS.values()),
    }
    broken = [
        {"__key__": f"{reason}-{i}", "png": data, "txt": "broken"}
        for reason, datas in bad.items()
        for i, data in enumerate(datas)
    ]
    write_source(tmp_path / "source", [sample(0), *odd, *broken], samples_per_shard=7)
    report = reinforce(
        tmp_path / "source", tmp_path / "out", teachers=tiny_teacher(), num_views=2, progress=False
    )
    assert report.skipped == {reason: len(datas) for reason, datas in bad.items()}
    assert report.samples == 1 + len(odd) + len(broken)
    assert open_dataset(tmp_path / "out").num_samples == 1 + len(odd)


@pytest.mark.parametrize("extension", ["png", "webp"])
def test_of_an_animation_the_first_frame_counts(extension):
    assert decode_image(animated(extension)).getpixel((5, 5)) == (255, 0, 0)


@pytest.mark.parametrize("size", [(1, MAX_SIDE), (MAX_SIDE, 1), (3, 20_000), (20_000, 3)])
@pytest.mark.parametrize("resize_mode", ["shortest", "squash"])
def test_strips_of_pixels_have_a_small_whole_view(size, resize_mode):
    preprocess = Preprocess(image_size=224, resize_mode=resize_mode)
    strip = Image.new("RGB", size, (10, 20, 30))
    # Resized as open_clip does it, 1 x 65,536 would have 3.3e9 pixels; Pillow would say so.
    assert (preprocess.whole_view(strip) == (10, 20, 30)).all()
    view = View((0.0, 0.0, 1.0, 1.0))
    assert (render_view(as_picture(strip), view, preprocess) == (10, 20, 30)).all()
