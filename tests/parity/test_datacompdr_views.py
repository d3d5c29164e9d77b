"""DataCompDR's parameters, rendered here and by torchvision, which made them."""

import json
import math
from typing import Any

import numpy as np
import pytest
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as F

from reinforced_data.datacompdr.views import NoView, parameters, to_view
from reinforced_data.testing import as_picture, picture
from reinforced_data.views import View, render_view
from teachers import Preprocess

PREPROCESS = Preprocess(image_size=224)
NEAREST = InterpolationMode.NEAREST
NUMBER = {
    **{"Identity": 0, "ShearX": 1, "ShearY": 2, "TranslateX": 3, "TranslateY": 4, "Rotate": 5},
    **{"Brightness": 6, "Color": 7, "Contrast": 8, "Sharpness": 9, "Posterize": 10},
    **{"Solarize": 11, "AutoContrast": 12, "Equalize": 13},
}


def apply_operation(image: Any, name: str, m: float) -> Any:
    """What RandAugment does to a Pillow image, by torchvision's public functions."""
    move = {"TranslateX": [int(m), 0], "TranslateY": [0, int(m)]}
    angle = math.degrees(math.atan(m))
    shear = {"ShearX": [angle, 0.0], "ShearY": [0.0, angle]}
    if name in move:
        return F.affine(image, 0.0, move[name], 1.0, [0.0, 0.0], NEAREST)
    if name in shear:
        return F.affine(image, 0.0, [0, 0], 1.0, shear[name], NEAREST, center=[0, 0])
    return {
        "Identity": lambda: image,
        "Rotate": lambda: F.rotate(image, m, NEAREST),
        "Brightness": lambda: F.adjust_brightness(image, 1 + m),
        "Color": lambda: F.adjust_saturation(image, 1 + m),
        "Contrast": lambda: F.adjust_contrast(image, 1 + m),
        "Sharpness": lambda: F.adjust_sharpness(image, 1 + m),
        "Posterize": lambda: F.posterize(image, int(m)),
        "Solarize": lambda: F.solarize(image, m),
        "AutoContrast": lambda: F.autocontrast(image),
        "Equalize": lambda: F.equalize(image),
    }[name]()


MAGNITUDES = [
    *[(name, sign * 0.09) for name in ("ShearX", "ShearY") for sign in (1, -1)],
    *[(name, sign * 30.453) for name in ("TranslateX", "TranslateY") for sign in (1, -1)],
    *[("Rotate", sign * 9.0) for sign in (1, -1)],
    *[
        (name, sign * 0.27)
        for name in ("Brightness", "Color", "Contrast", "Sharpness")
        for sign in (1, -1)
    ],
    *[("Posterize", 7.0), ("Solarize", 178.5), ("Identity", 0.0)],
    *[("AutoContrast", 0.0), ("Equalize", 0.0)],
]


@pytest.mark.parametrize(("name", "magnitude"), MAGNITUDES)
def test_each_operation_is_torchvisions_to_the_pixel(name, magnitude):
    image = picture(5, 224, 224)
    view = to_view([[0, 0, 224, 224], [[NUMBER[name], magnitude]]], image.size)
    assert view.crop == (0, 0, 1, 1)
    found = render_view(as_picture(image), view, PREPROCESS).astype(int)
    difference = np.abs(found - np.asarray(apply_operation(image, name, magnitude)).astype(int))
    # A store holds float32: 1 - 0.27 is another number, and now and then another grey level.
    rounded = name in ("Brightness", "Contrast")
    assert difference.max() <= rounded and (difference > 0).mean() < 0.01


def test_two_operations_in_their_order():
    image = picture(6, 224, 224)
    view = to_view([[0, 0, 224, 224], [[9, -0.27], [3, -30.453]]], image.size)
    expected = apply_operation(apply_operation(image, "Sharpness", -0.27), "TranslateX", -30.453)
    np.testing.assert_array_equal(
        render_view(as_picture(image), view, PREPROCESS), np.asarray(expected)
    )


def test_a_crop_differs_at_its_edges_alone():
    """torchvision resizes with Pillow here, and we (views of version 2) with torch."""
    image: Any = picture(7, 600, 500)
    top, left, height, width = 98, 42, 376, 439
    found = render_view(
        as_picture(image), to_view([[top, left, height, width], []], image.size), PREPROCESS
    )
    cut = F.resized_crop(
        image, top, left, height, width, [224, 224], InterpolationMode.BICUBIC, antialias=True
    )
    difference = np.abs(found.astype(int) - np.asarray(cut).astype(int))
    # torch and Pillow round 8-bit filters by one grey level differently.
    assert difference[2:-2, 2:-2].max() <= 1
    assert difference.mean() < 0.1


def test_the_copy_on_the_hub_has_json_within_json():
    views = [[[98, 42, 376, 439], [[9, -0.27], [3, -30.453]]], [[0, 0, 10, 10], None]]
    for content in (views, json.dumps(views)):
        assert parameters(json.dumps({"param_aug": content}).encode()) == views
    assert to_view(views[1], (10, 10)) == View((0.0, 0.0, 1.0, 1.0))


@pytest.mark.parametrize(
    ("parameter", "reason"),
    [
        ([[0, 0, 11, 10], []], "crop-outside-picture"),
        ([[-1, 0, 5, 5], []], "crop-outside-picture"),
        ([[0, 0, 0, 5], []], "bad-parameters"),
        ([[0, 0, 5], []], "bad-parameters"),
        ([[0, 0, 5, float("nan")], []], "bad-parameters"),
        ([[0, 0, 5, 5], [[14, 0.1]]], "unknown-operation"),
        ([[0, 0, 5, 5], [["Rotate", 0.1]]], "unknown-operation"),
        ([[0, 0, 5, 5], [[5, "x"]]], "bad-parameters"),
        ([[0, 0, 5, 5], [[5, 1.0]] * 3], "bad-parameters"),
        (None, "bad-parameters"),
        ("x", "bad-parameters"),
    ],
)
def test_what_is_no_view_has_a_reason(parameter, reason):
    with pytest.raises(NoView, match=reason):
        to_view(parameter, (10, 10))


@pytest.mark.parametrize("member", [b"", b"[]", b'{"param_aug": 1}', b'{"x": []}', b"[" * 100_000])
def test_what_are_no_parameters(member):
    with pytest.raises(NoView, match="bad-parameters"):
        parameters(member)
