"""Views are drawn by key alone and replay exactly, at any size."""

import hashlib
import json

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from reinforced_data.operations import OPERATIONS
from reinforced_data.testing import as_picture, picture
from reinforced_data.view_policy import RANDAUGMENT, ViewPolicy
from reinforced_data.views import View, render_view, sample_view
from teachers import Preprocess

PHOTO = ViewPolicy()
WHOLE = (0.0, 0.0, 1.0, 1.0)


def look(size: int) -> Preprocess:
    return Preprocess(image_size=size, interpolation="bilinear")


def test_a_view_is_a_function_of_seed_key_and_index():
    views = {sample_view(PHOTO, seed, key, i) for seed in (0, 1) for key in "ab" for i in (0, 1)}
    assert len(views) == 8
    assert sample_view(PHOTO, 0, "a", 1) == sample_view(PHOTO, 0, "a", 1)


def test_draws_do_not_change_between_releases():
    """Written stores are completed by later releases; these numbers must never change."""
    view = sample_view(PHOTO, 7, "key", 2, 1.5)
    uniforms = []
    for block in range(2):
        digest = hashlib.sha256(f"7/2/{block}/key".encode()).digest()
        uniforms += [
            (int.from_bytes(digest[i : i + 8], "big") >> 11) / 2**53 for i in (0, 8, 16, 24)
        ]
    area = 0.08 + 0.92 * uniforms[0]
    np.testing.assert_allclose(view.crop[2] * view.crop[3], area, rtol=1e-5)
    np.testing.assert_allclose(view.crop[0], (1 - view.crop[2]) * uniforms[2], atol=1e-6)
    # Draw 4 is the flip, then two draws per operation.
    assert view.ops[0][0] == RANDAUGMENT[int(uniforms[5] * len(RANDAUGMENT))]


def test_views_survive_float32():
    for index in range(50):
        view = sample_view(PHOTO, 0, "k", index, 1.7)
        assert view.crop == tuple(np.float32(view.crop).tolist())
        assert all(m == float(np.float32(m)) for _, m in view.ops)


@pytest.mark.parametrize("aspect", [0.2, 1.0, 1.5, 6.0])
def test_crops_keep_to_area_ratio_and_image(aspect):
    policy = ViewPolicy(scale=(0.3, 0.7))
    areas = []
    for index in range(300):
        left, top, width, height = sample_view(policy, 0, "k", index, aspect).crop
        assert left >= 0 and top >= 0 and left + width <= 1 + 1e-6 and top + height <= 1 + 1e-6
        assert 0.75 - 1e-4 <= width / height * aspect <= 4 / 3 + 1e-4
        areas.append(width * height)
    if aspect in (1.0, 1.5):
        assert min(areas) < 0.35 and max(areas) > 0.65
        assert min(areas) >= 0.3 - 1e-4 and max(areas) <= 0.7 + 1e-4


def test_whole_image_policy_takes_the_whole_square():
    policy = ViewPolicy(scale=(1.0, 1.0), ratio=(1.0, 1.0), num_ops=0)
    assert sample_view(policy, 0, "k", 0).crop == (0.0, 0.0, 1.0, 1.0)
    image = picture(0, 32, 32)
    np.testing.assert_array_equal(render_view(as_picture(image), View(WHOLE), look(32)), image)


def test_flip_is_off_by_default_and_comes_as_often_as_asked():
    def flips(policy):
        views = (sample_view(policy, 0, "k", i) for i in range(1000))
        return sum(view.ops[:1] == (("flip", 0.0),) for view in views)

    assert flips(PHOTO) == 0
    assert 250 < flips(ViewPolicy(flip=0.3)) < 350


def test_rendering_replays_bit_for_bit():
    image = picture(0, 60, 40)
    for index in range(100):
        view = sample_view(PHOTO, 0, "k", index, 1.5)
        again = View(tuple(np.float32(view.crop).tolist()), view.ops, view.fill)
        first, second = (render_view(as_picture(image), v, look(24)) for v in (view, again))
        np.testing.assert_array_equal(first, second)
        assert first.shape == (24, 24, 3) and first.dtype == np.uint8


@pytest.mark.parametrize("name", list(OPERATIONS))
def test_a_view_means_the_same_at_every_size(name):
    """Rendered at 224 and 256 and brought to one size, a view is one picture."""
    row = OPERATIONS[name]
    magnitude = row.weakest + (row.strongest - row.weakest) * 0.3
    view = View((0.1, 0.2, 0.7, 0.6), ((name, magnitude),))
    image = as_picture(picture(3, 640, 480))
    small, large = (
        Image.fromarray(render_view(image, view, look(size))).resize((64, 64), reducing_gap=None)
        for size in (224, 256)
    )
    difference = np.abs(np.asarray(small, np.float32) - np.asarray(large, np.float32))
    assert difference.mean() < 1.5, f"mean difference {difference.mean()}"


def test_crop_geometry_is_that_of_the_image():
    """Pixels that encode their own position show which part was cut out, at 224 and at 256."""
    x = np.broadcast_to(np.linspace(0, 255, 640), (480, 640))
    y = np.broadcast_to(np.linspace(0, 255, 480)[:, None], (480, 640))
    image = Image.fromarray(np.stack([x, y, x], -1).astype(np.uint8))
    left, top, width, height = crop = (0.25, 0.125, 0.5, 0.75)
    for source in (image, image.resize((320, 240))):
        for size in (224, 256):
            pixels = render_view(as_picture(source), View(crop), look(size)).astype(float) / 255
            assert pixels[:, 0, 0].mean() == pytest.approx(left, abs=0.01)
            assert pixels[:, -1, 0].mean() == pytest.approx(left + width, abs=0.01)
            assert pixels[0, :, 1].mean() == pytest.approx(top, abs=0.01)
            assert pixels[-1, :, 1].mean() == pytest.approx(top + height, abs=0.01)


@pytest.mark.parametrize("size", [224, 256])
def test_translations_are_fractions_of_the_output(size):
    image = as_picture(Image.new("RGB", (100, 100), (255, 255, 255)))
    pixels = render_view(image, View(WHOLE, (("translate_x", 0.25),)), look(size))
    assert (pixels[:, : size // 4] == 0).all() and (pixels[:, size // 4 :] == 255).all()
    pixels = render_view(image, View(WHOLE, (("translate_y", -0.25),), 9), look(size))
    assert (pixels[-size // 4 :] == 9).all() and (pixels[: -size // 4] == 255).all()


def test_operations_are_pillows():
    """The table is faster than ImageOps and ImageEnhance, and the same."""
    for seed, size in ((0, 32), (1, 50), (2, 224)):
        noise = np.random.default_rng(seed).integers(20, 200, (size, size, 3), dtype=np.uint8)
        image = Image.fromarray(noise)
        expected = {
            ("autocontrast", 0.0): ImageOps.autocontrast(image),
            ("equalize", 0.0): ImageOps.equalize(image),
            ("posterize", 4.0): ImageOps.posterize(image, 4),
            ("solarize", 100.0): ImageOps.solarize(image, 100),
            ("brightness", -0.3): ImageEnhance.Brightness(image).enhance(0.7),
            ("contrast", 0.3): ImageEnhance.Contrast(image).enhance(1.3),
            ("color", -0.3): ImageEnhance.Color(image).enhance(0.7),
            ("sharpness", 0.3): ImageEnhance.Sharpness(image).enhance(1.3),
            ("flip", 0.0): ImageOps.mirror(image),
            ("rotate", 90.0): image.rotate(90),
        }
        for (name, magnitude), wanted in expected.items():
            found = OPERATIONS[name].apply(image, magnitude, 0)
            error = np.abs(np.asarray(found, int) - np.asarray(wanted, int))
            assert error.max() <= 1, f"{name}: {error.max()}"


def test_a_flat_picture_stays_flat():
    image = Image.new("RGB", (8, 8), (10, 10, 10))
    for name in ("autocontrast", "equalize"):
        np.testing.assert_array_equal(OPERATIONS[name].apply(image, 0.0, 0), image)


def test_policy_round_trip_and_errors():
    policy = ViewPolicy(scale=(0.6, 1.0), num_ops=1, operations=("rotate", "shear_x"), fill=255)
    assert ViewPolicy.from_config(json.loads(json.dumps(policy.config()))) == policy
    for wrong in (
        {"scale": (0.0, 1.0)},
        {"ratio": (2.0, 1.0)},
        {"operations": ("swirl",)},
        {"operations": ()},
        {"fill": 256},
        {"flip": 1.5},
    ):
        with pytest.raises(ValueError):
            ViewPolicy(**wrong)
