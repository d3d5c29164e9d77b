"""`Preprocess` gives the pixels that open_clip's own evaluation transform gives."""

import itertools

import numpy as np
import pytest
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

from teachers import Preprocess

SIZES = [(64, 64), (33, 64), (200, 37), (37, 200), (97, 131), (20, 25), (32, 90), (641, 480)]


def picture(size: tuple[int, int], mode: str = "RGB") -> Image.Image:
    rng = np.random.default_rng(size[0] * 1000 + size[1])
    coarse = Image.fromarray(rng.integers(0, 256, (9, 7, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize(size, Image.Resampling.BICUBIC)).astype(int)
    noisy = np.clip(smooth + rng.integers(-40, 40, smooth.shape), 0, 255).astype(np.uint8)
    return Image.fromarray(noisy).convert(mode)


@pytest.mark.parametrize(
    ("interpolation", "resize_mode"),
    itertools.product(("bicubic", "bilinear"), ("shortest", "squash")),
)
@pytest.mark.parametrize("size", SIZES)
def test_whole_view_equals_open_clip(interpolation, resize_mode, size):
    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    ours = Preprocess(
        image_size=32, mean=mean, std=std, interpolation=interpolation, resize_mode=resize_mode
    )
    config = PreprocessCfg(
        size=32, mean=mean, std=std, interpolation=interpolation, resize_mode=resize_mode
    )
    image = picture(size)
    expected = image_transform_v2(config, is_train=False)(image)
    got = ours.normalize(torch.from_numpy(ours.whole_view(image)[None]))[0]
    assert (got - expected).abs().max() < 1e-6
    assert expected.std() > 0.1  # a constant picture would prove nothing


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK"])
def test_other_image_modes_are_converted_when_open_clip_converts_them(mode):
    image = picture((50, 70), mode)
    ours = Preprocess(image_size=24)
    expected = image_transform_v2(PreprocessCfg(size=24), is_train=False)(image)
    got = ours.normalize(torch.from_numpy(ours.whole_view(image)[None]))[0]
    assert (got - expected).abs().max() < 1e-6


def test_config_comes_back_through_json_types():
    ours = Preprocess(image_size=40, mean=(0.0, 0.1, 0.2), std=(1.0, 1.0, 0.5))
    config = ours.config()
    config["mean"] = list(config["mean"])
    assert Preprocess.from_config(config) == ours
