"""Views against a float64 resampling, and the same bits from every processor and for ever."""

import hashlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from reinforced_data.pictures import Picture
from reinforced_data.resampling import decode_scale
from reinforced_data.testing import photograph
from reinforced_data.view_policy import ViewPolicy
from reinforced_data.views import View, render_view, sample_view
from teachers import Preprocess

PICTURE = Path(__file__).parent / "pictures" / "view-rendering.jpg"
CUBIC, LINEAR = (
    Preprocess(image_size=224),
    Preprocess(image_size=224, interpolation="bilinear"),
)


def resampled(pixels: np.ndarray, view: View, look: Preprocess) -> np.ndarray:
    """Antialiased resampling from exactly the crop's box, in float64."""
    (left, top, width, height), (rows, columns) = view.crop, pixels.shape[:2]
    across = weights(columns, left * columns, width * columns, look)
    down = weights(rows, top * rows, height * rows, look)
    return np.einsum("ih,hwc,jw->ijc", down, pixels.astype(float), across, optimize=True)


def weights(total: int, start: float, length: float, look: Preprocess) -> np.ndarray:
    step = length / look.image_size
    stretch, reach = max(step, 1.0), 2 if look.interpolation == "bicubic" else 1
    centres = start + (np.arange(look.image_size) + 0.5) * step
    x = np.abs(np.arange(total) + 0.5 - centres[:, None]) / stretch
    if look.interpolation == "bicubic":
        near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
        values = np.where(x < 1, near, far) * (x < reach)
    else:
        values = np.maximum(1 - x, 0)
    return values / values.sum(1, keepdims=True)


def psnr(pixels: np.ndarray, truth: np.ndarray) -> float:
    return 10 * np.log10(255**2 / np.mean((pixels - truth.clip(0, 255)) ** 2))


@pytest.mark.parametrize("look", [CUBIC, LINEAR], ids=["bicubic", "bilinear"])
@pytest.mark.parametrize(("side", "bound"), [(300, 56), (420, 56), (456, 46), (640, 46), (904, 44)])
def test_views_are_close_to_a_resampling_of_the_whole_picture(look, side, bound):
    """Crops on the grid: what the scaled decode and 8-bit arithmetic cost, and nothing else."""
    buffer = io.BytesIO()
    photograph(3, 1000, 944).save(buffer, "JPEG", quality=90, subsampling=2)
    picture = Picture(buffer.getvalue())
    view = View((8 / 1000, 16 / 944, side / 1000, side / 944))
    assert decode_scale(picture, view.crop, 224) == (1 if side < 448 else 2 if side < 896 else 4)
    found = psnr(render_view(picture, view, look), resampled(picture.pixels(), view, look))
    assert found > bound, f"{found:.1f} dB"


def test_rounding_the_crop_moves_a_view_by_less_than_a_pixel_of_it():
    """A ramp tells where each output pixel comes from; half a decoded pixel is the most."""
    ramp = np.linspace(16, 240, 1000)[None, :, None]
    image = Image.fromarray(np.broadcast_to(ramp, (750, 1000, 3)).round().astype(np.uint8))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=98, subsampling=0)
    picture = Picture(buffer.getvalue())
    for index in range(6):
        view = sample_view(ViewPolicy(num_ops=0), 0, "k", index, 4 / 3)
        # Levels per output pixel; the rest is rounding, of JPEG and of levels.
        step = view.crop[2]
        truth = resampled(np.asarray(image), view, CUBIC)
        error = np.abs(render_view(picture, view, CUBIC) - truth)[8:-8, 8:-8]
        assert error.max() < step + 1.6, f"view {index}: {error.max()} levels"


def digests() -> dict[str, str]:
    """Every version, filter, scale and operation on one picture."""
    found, policy = {}, ViewPolicy()
    data = PICTURE.read_bytes()
    for version in (1, 2):
        for look in (CUBIC, LINEAR, Preprocess(image_size=96), Preprocess(image_size=32)):
            digest = hashlib.sha256()
            for index in range(20):
                picture = Picture(data)
                aspect = picture.width / picture.height
                view = sample_view(policy, 0, "for ever", index, aspect, version)
                digest.update(render_view(picture, view, look).tobytes())
            name = f"version {version}, {look.interpolation}, {look.image_size}"
            found[name] = digest.hexdigest()[:16]
    return found


def test_pixels_do_not_change_between_releases():
    """Written stores are trained from by later releases: these numbers must never change."""
    assert digests() == {
        "version 1, bicubic, 224": "5dd37c5f27382b9f",
        "version 1, bilinear, 224": "db2e2e7933e7642a",
        "version 1, bicubic, 96": "5d1c4a02137a3b9f",
        "version 1, bicubic, 32": "a98f22c90d03b403",
        "version 2, bicubic, 224": "26a6740fb3ebc6c7",
        "version 2, bilinear, 224": "88b2e531c92e748d",
        "version 2, bicubic, 96": "729cf4f152cfba9b",
        "version 2, bicubic, 32": "f472d9c7d0020fb3",
    }


_ELSEWHERE = """
import json, sys
sys.path.insert(0, sys.argv[1])
import torch
from test_view_rendering import digests
print(json.dumps({"capability": torch.backends.cpu.get_cpu_capability(), **digests()}))
"""


@pytest.mark.slow
def test_a_processor_without_vector_instructions_gives_the_same_bits():
    setting = {"ATEN_CPU_CAPABILITY": "default", "JSIMD_FORCENONE": "1"}
    command = [sys.executable, "-c", _ELSEWHERE, str(Path(__file__).parent)]
    done = subprocess.run(
        command, env=os.environ | setting, capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == {"capability": "DEFAULT", **digests()}
