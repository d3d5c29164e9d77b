"""What turns pictures and texts into a tower's inputs, from the files of a bundle alone.

Needs numpy and Pillow; a tokenizer of Hugging Face's kind also needs the `tokenizers` library.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from students.bundling.shipped.words import BytePairs, WordLevel, clean

_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
_MOST_PIXELS = 1 << 24


def read(path: Path) -> Any:
    """Read a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def open_tokenizer(folder: Path) -> Callable[[list[str]], np.ndarray]:
    """Return the bundle's tokenizer: texts to int64 ids `(n, context_length)`.

    Raises:
        ValueError: the student's tokenizer is of its maker's own, and no file here describes it.
    """
    config = read(folder / "tokenizer.json")
    if config["algorithm"] == "words":
        return WordLevel(config)
    if config["algorithm"] == "clip_bpe":
        merges = (folder / config["merges"]).read_text(encoding="utf-8").splitlines()
        return BytePairs(config, read(folder / config["vocabulary"]), merges)
    if config["algorithm"] == "huggingface":
        return _hugging_face(config, folder)
    raise ValueError(
        f"{folder / 'tokenizer.json'} describes a tokenizer of its maker's own "
        f"({config.get('type')}); give the text tower ids that you make with that one"
    )


def _hugging_face(config: dict[str, Any], folder: Path) -> Callable[[list[str]], np.ndarray]:
    from tokenizers import Tokenizer

    inner = Tokenizer.from_file(str(folder / config["vocabulary"]))
    inner.enable_truncation(config["context_length"])
    inner.enable_padding(length=config["context_length"], **config["padding"])

    def tokenize(texts: list[str]) -> np.ndarray:
        found = inner.encode_batch([clean(text, config["clean"]) for text in texts])
        return np.array([row.ids for row in found], dtype=np.int64)

    return tokenize


def pixels(image: Image.Image, config: dict[str, Any], dtype: str = "float32") -> np.ndarray:
    """Resize, crop the centre and normalise: float32 `(1, 3, size, size)`.

    Args:
        image: any Pillow image.
        config: `preprocessing.json`.
        dtype: the tower's `input_dtype`; one of "uint8" normalises inside, and is given the bytes
            `(1, size, size, 3)`.
    """
    size, resample = config["image_size"], _FILTERS[config["interpolation"]]
    width, height = image.size
    if config["resize_mode"] == "squash":
        image = image.resize((size, size), resample)
    elif size**2 * max(image.size) > _MOST_PIXELS * min(image.size):
        # A strip of pixels would be enormous once resized: it is cropped first.
        side = min(image.size)
        left, top = (width - side) / 2, (height - side) / 2
        image = image.resize((size, size), resample, box=(left, top, left + side, top + side))
    elif width <= height:
        image = image.resize((size, int(size * height / width)), resample)
    else:
        image = image.resize((int(size * width / height), size), resample)
    left, top = round((image.width - size) / 2), round((image.height - size) / 2)
    crop = image.crop((left, top, left + size, top + size)).convert("RGB")
    if dtype == "uint8":
        return np.array(crop)[None]
    mean, std = (np.array(config[name], np.float32) * np.float32(255) for name in ("mean", "std"))
    normal = (np.asarray(crop, dtype=np.float32) - mean) / std
    return np.ascontiguousarray(normal.transpose(2, 0, 1)[None])
