"""A picture is decoded as far as a view needs, and what else was decoded changes no pixel."""

import io

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from reinforced_data.decoding import UnreadableImage, decode_image
from reinforced_data.pictures import Picture
from reinforced_data.resampling import decode_scale
from reinforced_data.testing import encoded, photograph
from reinforced_data.view_policy import ViewPolicy
from reinforced_data.views import View, render_view, sample_view
from teachers import Preprocess

LOOKS = [
    Preprocess(image_size=16, interpolation="bilinear"),
    Preprocess(image_size=224),
    Preprocess(image_size=256, interpolation="bilinear"),
    Preprocess(image_size=64),
]
PHOTO = photograph(0, 730, 611)
SUBSAMPLINGS = ("444", "422", "420", "440", "411", "Gray")


def jpeg(image: Image.Image = PHOTO, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **{"quality": 90, "subsampling": 2, **options})
    return buffer.getvalue()


def subsampled(kind: str) -> bytes:
    colours = {"colorspace": "GRAY"} if kind == "Gray" else {}
    array = np.array(PHOTO.convert("L"))[:, :, None] if kind == "Gray" else np.array(PHOTO)
    return simplejpeg.encode_jpeg(array, quality=90, colorsubsampling=kind, **colours)


FILES = {
    "baseline": jpeg(),
    "progressive": jpeg(progressive=True),
    "restarts": jpeg(restart_marker_rows=1),
    "cmyk": jpeg(PHOTO.convert("CMYK")),
    "png": encoded(PHOTO, "png"),
    "webp": encoded(PHOTO.resize((300, 250)), "webp"),
    **{kind: subsampled(kind) for kind in SUBSAMPLINGS},
}


def draw(count: int) -> list[View]:
    policy = ViewPolicy(num_ops=1)
    return [
        sample_view(policy, 0, "k", index, PHOTO.width / PHOTO.height) for index in range(count)
    ]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("version", [1, 2])
def test_views_together_are_each_alone(name, version):
    """Stage 1 renders all views from one picture, training each from a picture of its own."""
    together = Picture(FILES[name])
    for index, view in enumerate(draw(10)):
        view = View(view.crop, view.ops, view.fill, version)
        for look in LOOKS[index % 2 :: 2]:
            alone = render_view(Picture(FILES[name], known_good=True), view, look)
            np.testing.assert_array_equal(alone, render_view(together, view, look))


@pytest.mark.parametrize("name", [name for name in FILES if Picture(FILES[name]).scalable])
def test_stopping_early_changes_no_row(name):
    data = FILES[name]
    for scale in (1, 2, 4, 8):
        whole = Picture(data).pixels(scale)
        assert whole.shape == (-(-PHOTO.height // scale), -(-PHOTO.width // scale), 3)
        for rows in {1, 7, 8, 9, 16, 31, 70, len(whole) - 1, len(whole), *range(5, 600, 97)}:
            part = Picture(data, known_good=True).pixels(scale, rows)
            assert min(rows, len(whole)) <= len(part) <= len(whole)
            np.testing.assert_array_equal(part[:rows], whole[: min(rows, len(part))])


def test_stopping_early_stops_early():
    part = Picture(FILES["baseline"], known_good=True).pixels(1, 100)
    assert len(part) < 140
    assert len(Picture(FILES["baseline"]).pixels(1, 100)) == PHOTO.height


def test_one_decode_per_scale(monkeypatch):
    decodes = []
    original = simplejpeg.decode_jpeg

    def counted(data, **options):
        decodes.append(options["min_height"])
        return original(data, **options)

    monkeypatch.setattr(simplejpeg, "decode_jpeg", counted)
    picture = Picture(FILES["baseline"])
    picture.check()
    for view in draw(10):
        for look in LOOKS:
            render_view(picture, view, look)
    assert len(decodes) == len(set(decodes)) <= 4


def test_full_scale_is_what_decode_image_gives():
    for data in FILES.values():
        np.testing.assert_array_equal(Picture(data).pixels(), decode_image(data))
        assert Picture(data).image().size == (Picture(data).width, Picture(data).height)


def test_the_scale_is_a_function_of_crop_size_and_picture():
    photo, png = Picture(jpeg(Image.new("RGB", (2000, 1000)))), Picture(FILES["png"])
    whole, half = (0.0, 0.0, 1.0, 1.0), (0.1, 0.2, 0.9, 0.448)
    expected = {(whole, 224): 4, (whole, 251): 2, (whole, 501): 1, (whole, 64): 8, (half, 224): 2}
    expected |= {(half, 225): 1, (half, 112): 4, ((0.0, 0.0, 0.01, 1.0), 16): 1, (whole, 1): 8}
    for (crop, size), scale in expected.items():
        assert decode_scale(photo, crop, size) == scale, (crop, size)
        assert decode_scale(png, crop, size) == 1
    assert decode_scale(Picture(FILES["cmyk"]), whole, 16) == 1
    # No output pixel is made from less than one pixel that was decoded.
    for view in draw(50):
        for size in (16, 64, 224):
            scale = decode_scale(photo, view.crop, size)
            assert scale == 1 or min(view.crop[2] * 2000, view.crop[3] * 1000) >= scale * size


@pytest.mark.parametrize("size", [(1, 1), (3, 2), (15, 9), (17, 33), (8, 4000), (4000, 8)])
@pytest.mark.parametrize("image_size", [1, 2, 16])
def test_tiny_pictures_and_tiny_models(size, image_size):
    data = jpeg(Image.new("RGB", size, (10, 20, 30)))
    look = Preprocess(image_size=image_size)
    for crop in ((0.0, 0.0, 1.0, 1.0), (0.99, 0.99, 0.01, 0.01), (0.0, 0.0, 1e-4, 1e-4)):
        pixels = render_view(Picture(data), View(crop), look)
        assert pixels.shape == (image_size, image_size, 3)
        assert np.abs(pixels.astype(int) - decode_image(data).getpixel((0, 0))).max() <= 1


def test_orientation_is_ignored_at_every_scale():
    exif = Image.Exif()
    exif[0x0112] = 6
    turned, plain = jpeg(exif=exif), FILES["baseline"]
    assert Image.open(io.BytesIO(turned)).getexif()[0x0112] == 6
    for view in draw(5):
        for look in LOOKS:
            first, second = (
                render_view(Picture(data, known_good=True), view, look) for data in (turned, plain)
            )
            np.testing.assert_array_equal(first, second)


def damaged(where: float, marker: bytes) -> bytes:
    """Put a marker where there should be none."""
    data = bytearray(FILES["baseline"])
    at = int(len(data) * where)
    data[at : at + 2] = marker
    return bytes(data)


@pytest.mark.parametrize("where", [0.3, 0.6, 0.95])
@pytest.mark.parametrize("marker", [b"\xff\xd3", b"\xff\xd9"])
def test_forgiven_damage_is_replayed_alike(where, marker):
    """Pillow forgives it and so stage 1 does; training sees the same pixels from fewer rows."""
    data = damaged(where, marker)
    with pytest.raises(ValueError, match="Corrupt JPEG"):
        simplejpeg.decode_jpeg(data)
    assert decode_image(data).size == PHOTO.size
    together = Picture(data)
    for view in draw(10):
        for look in LOOKS:
            alone = render_view(Picture(data, known_good=True), view, look)
            np.testing.assert_array_equal(alone, render_view(together, view, look))


@pytest.mark.parametrize("where", [0.3, 0.95])
def test_damage_below_the_crop_is_refused_too(where):
    """Which samples a store holds must not depend on where its views lie."""
    data = damaged(where, b"\xff\xc4")
    for read in (decode_image, lambda data: Picture(data).check(), top_of):
        with pytest.raises(UnreadableImage) as error:
            read(data)
        assert error.value.reason == "undecodable"


def top_of(data: bytes) -> np.ndarray:
    return render_view(Picture(data), View((0.0, 0.0, 0.2, 0.2)), LOOKS[0])


def test_a_cut_picture_is_refused_also_where_only_its_top_is_asked_for():
    data = FILES["baseline"]
    for read in (top_of, lambda data: Picture(data).check()):
        with pytest.raises(UnreadableImage) as error:
            read(data[: len(data) // 2])
        assert error.value.reason == "undecodable"
