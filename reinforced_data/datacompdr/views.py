"""DataCompDR's augmentation parameters (arXiv:2311.17049) as views.

One of them is `[[top, left, height, width], [[operation, magnitude], ...]]`: a crop in pixels of
the picture that was augmented, then torchvision's RandAugment on the crop at 224 pixels. Every
operation has its counterpart here, equal at 224 pixels (but for one grey level in a hundred where
a factor is rounded to float32) and the same fractions at any other size. Not equal are the
outermost pixels of a crop: we resize in one step, so that the filter sees what lies beyond the
crop's edge, where torchvision cuts first.
"""

import json
import math
from typing import Any

import numpy as np

from reinforced_data.view_policy import RANDAUGMENT, ViewPolicy
from reinforced_data.views import View

AUGMENTED_AT = 224
"""Pixels of a side when RandAugment ran; its translations are in these."""

# By their number in the parameters: torchvision shears from the top left corner.
_OPERATIONS = tuple(
    {"shear_x": "shear_x_from_top", "shear_y": "shear_y_from_left"}.get(name, name)
    for name in RANDAUGMENT
)
POLICY = ViewPolicy(operations=_OPERATIONS)
"""What the published views were drawn from."""


class NoView(ValueError):  # noqa: N818 - it reads better where it is caught
    """Parameters that are no view of this picture; `reason` is the word that reports count."""

    def __init__(self, reason: str) -> None:
        """Keep the reason."""
        super().__init__(reason)
        self.reason = reason


def parameters(member: bytes) -> list[Any]:
    """Read `paug.json`: the parameters of each view.

    Raises:
        NoView: it is something else.
    """
    try:
        found = json.loads(member)["param_aug"]
        # The copy on the Hub has JSON within JSON.
        found = json.loads(found) if isinstance(found, str) else found
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise NoView("bad-parameters") from error
    if not isinstance(found, list):
        raise NoView("bad-parameters")
    return found


def to_view(parameter: Any, size: tuple[int, int]) -> View:
    """Translate one view's parameters.

    Args:
        parameter: crop and operations.
        size: width and height of the picture that the crop's pixels belong to.

    Raises:
        NoView: `bad-parameters`, an operation that is not RandAugment's (`unknown-operation`), or
            a crop that does not lie in the picture (`crop-outside-picture`).
    """
    try:
        (top, left, height, width), operations = parameter
        ops = [_operation(number, magnitude) for number, magnitude in operations or ()]
        box = [float(value) for value in (left, top, width, height)]
    except (TypeError, ValueError) as error:
        if isinstance(error, NoView):
            raise
        raise NoView("bad-parameters") from error
    if not all(map(math.isfinite, box)) or len(ops) > POLICY.num_ops:
        raise NoView("bad-parameters")
    left, top, width, height = box
    if min(left, top) < 0 or left + width > size[0] or top + height > size[1]:
        raise NoView("crop-outside-picture")
    if min(width, height) < 1:
        raise NoView("bad-parameters")
    crop = np.array(
        [left / size[0], top / size[1], width / size[0], height / size[1]], np.float32
    ).tolist()
    return View(tuple(crop), tuple(ops), POLICY.fill)


def _operation(number: Any, magnitude: Any) -> tuple[str, float]:
    if not isinstance(number, int) or not 0 <= number < len(_OPERATIONS):
        raise NoView("unknown-operation")
    name, amount = _OPERATIONS[number], float(magnitude)
    if not math.isfinite(amount):
        raise NoView("bad-parameters")
    if name.startswith("translate"):
        amount = int(amount) / AUGMENTED_AT  # whole pixels, towards zero
    elif name == "posterize":
        amount = float(int(amount))
    return name, float(np.float32(amount))
