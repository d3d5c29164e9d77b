"""Pictures made harder, each against a plain computation of the same in float64."""

import colorsys

import numpy as np
import pytest
from scipy.fft import dctn, idctn
from scipy.ndimage import gaussian_filter

from distill.evaluation.stress import (
    CORRUPTIONS,
    corruption,
    lower_resolution,
    typographic_attack,
    written_class,
)
from reinforced_data.source import Sample
from reinforced_data.testing import photograph

NAMES = ("red square", "green disc", "blue bar", "grey sky")
# Luminance, table K.1 of the JPEG standard (ITU-T T.81).
K1 = """
16 11 10 16 24 40 51 61
12 12 14 19 26 58 60 55
14 13 16 24 40 57 69 56
14 17 22 29 51 87 80 62
18 22 37 56 68 109 103 77
24 35 55 64 81 104 113 92
49 64 78 87 103 121 120 101
72 92 95 98 112 100 103 99
"""


def bare(key: str, label: str | None = None) -> Sample:
    return Sample(key=key, image=b"", extension="png", captions=(), label=label, offset=0, size=0)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_corruption_grows_with_its_severity_and_is_drawn_by_key(name):
    pixels = np.array(photograph(1, 64, 64))
    sample, other = (bare(key) for key in "ab")
    hurt = [corruption(name, level)(pixels, sample) for level in (1, 3, 5)]
    away = [np.abs(found.astype(float) - pixels).mean() for found in hurt]
    assert hurt[0].shape == pixels.shape and hurt[0].dtype == np.uint8
    # Saturation goes both ways: 1 takes it away, 5 adds much.
    assert away[0] > 0.5 and (name == "saturation" or away[0] < away[1] < away[2])
    again = corruption(name, 3)(pixels, sample)
    np.testing.assert_array_equal(again, hurt[1])
    elsewhere = corruption(name, 3)(pixels, other)
    assert (elsewhere == hurt[1]).all() == (name != "noise")


def test_noise_and_contrast_are_imagenet_c():
    grey = np.full((200, 200, 3), 128, np.uint8)
    sample = bare("a")
    assert corruption("noise", 2)(grey, sample).std() / 255 == pytest.approx(0.12, rel=0.02)
    pixels = np.array(photograph(1, 64, 64))
    flat = corruption("contrast", 4)(pixels, sample)
    np.testing.assert_allclose(flat.std((0, 1)), 0.1 * pixels.std((0, 1)), rtol=0.05)
    np.testing.assert_allclose(flat.mean((0, 1)), pixels.mean((0, 1)), atol=0.5)


def coloured() -> np.ndarray:
    """A photograph, and beside it every mixture of five levels, greys, black and white included."""
    levels = np.array([0, 60, 128, 200, 255])
    every = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(-1, 3)
    pixels = np.array(photograph(1, 32, 32))
    pixels.reshape(-1, 3)[: len(every)] = every
    return pixels


def through_hsv(pixels: np.ndarray, change) -> np.ndarray:
    rows = [
        colorsys.hsv_to_rgb(*change(*colorsys.rgb_to_hsv(*p))) for p in pixels.reshape(-1, 3) / 255
    ]
    return np.array(rows).reshape(pixels.shape) * 255


@pytest.mark.parametrize("severity", [1, 3, 5])
def test_brightness_raises_the_value_of_hsv(severity):
    pixels = coloured()
    expected = through_hsv(pixels, lambda h, s, v: (h, s, min(v + severity / 10, 1.0)))
    got = corruption("brightness", severity)(pixels, bare("a"))
    np.testing.assert_allclose(got, expected, atol=0.5 + 1e-6)


@pytest.mark.parametrize(
    ("severity", "factor", "added"), [(1, 0.3, 0), (3, 2, 0), (4, 5, 0.1), (5, 20, 0.2)]
)
def test_saturation_is_that_of_hsv(severity, factor, added):
    pixels = coloured()
    expected = through_hsv(pixels, lambda h, s, v: (h, min(s * factor + added, 1.0), v))
    got = corruption("saturation", severity)(pixels, bare("a"))
    np.testing.assert_allclose(got, expected, atol=0.5 + 1e-6)


def test_blur_is_gaussian():
    pixels = np.array(photograph(1, 112, 112))
    # ImageNet-C's 6 at 224 pixels.
    expected = gaussian_filter(pixels.astype(float), (3, 3, 0), mode="nearest")
    got = corruption("blur", 5)(pixels, bare("a"))
    # Pillow's is three box filters, each with edges of its own: inside, sigmas of 2.7 and 3.3 are
    # up to 12 and 6 levels away.
    away = np.abs(got - expected)[10:-10, 10:-10]
    assert away.max() < 3.5


def test_pixelate_averages_blocks():
    pixels = np.array(photograph(1, 64, 64))
    blocks = pixels.reshape(32, 2, 32, 2, 3).mean((1, 3))
    got = corruption("pixelate", 2)(pixels, bare("a"))
    # Pillow rounds after each of two directions.
    np.testing.assert_allclose(got, blocks.repeat(2, 0).repeat(2, 1), atol=1.01)


@pytest.mark.parametrize(("size", "few"), [(64, 25), (224, 89)])
def test_pixelate_cuts_a_size_that_is_no_whole_number(size, few):
    """0.4 of 64 and of 224: 25.6 and 89.6, of which ImageNet-C takes int."""
    pixels = np.array(photograph(1, size, size))
    got = corruption("pixelate", 3)(pixels, bare("a"))
    # Neighbours of one block are equal; a photograph's blocks differ.
    borders = (np.diff(got.astype(int), axis=1) != 0).any((0, 2)).sum()
    assert borders == few - 1


def test_jpeg_quantises_cosines_of_quality_15():
    grey = np.array(photograph(1, 64, 64).convert("L"))
    steps = np.array(K1.split(), float).reshape(8, 8)
    steps = np.floor((steps * (5000 // 15) + 50) / 100).clip(1, 255)
    blocks = (grey.astype(float) - 128).reshape(8, 8, 8, 8).swapaxes(1, 2)
    cosines = np.round(dctn(blocks, axes=(2, 3), norm="ortho") / steps) * steps
    expected = idctn(cosines, axes=(2, 3), norm="ortho").swapaxes(1, 2).reshape(64, 64) + 128
    got = corruption("jpeg", 3)(np.stack([grey] * 3, -1), bare("a"))
    # libjpeg's transform is in integers, so that a cosine between two steps may go the other way.
    near = np.abs(got - expected.clip(0, 255)[..., None]) <= 1.5
    assert near.mean() > 0.95


def test_lower_resolution_leaves_no_more_than_it_says():
    pixels = np.array(photograph(2, 64, 64))
    sample = bare("a")
    assert lower_resolution(64)(pixels, sample) is pixels
    low = lower_resolution(16)(pixels, sample)
    again = lower_resolution(16)(low, sample)
    assert np.abs(low.astype(int) - pixels).mean() > 3 * np.abs(low.astype(int) - again).mean()


def test_the_attack_writes_another_class_where_it_can_be_read():
    pixels = np.full((64, 64, 3), 90, np.uint8)
    sample = bare("k", NAMES[0])
    written = typographic_attack(NAMES)(pixels, sample)
    assert written_class(sample, NAMES) in NAMES[1:]
    changed = (written != pixels).any(2)
    # Over most of the width, and on a small part of the picture; no letter is cut off at the edge.
    columns, rows = np.flatnonzero(changed.any(0)), np.flatnonzero(changed.any(1))
    assert 0.5 * 64 < np.ptp(columns) < 64 and 2 < np.ptp(rows) < 22
    assert 0.02 < changed.mean() < 0.3
    drawn = {written_class(bare(str(i), NAMES[0]), NAMES) for i in range(40)}
    assert drawn == set(NAMES[1:])
    with pytest.raises(ValueError, match="at least two classes"):
        written_class(sample, NAMES[:1])
