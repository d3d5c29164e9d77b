"""Does the shipped file do what the model does? Largest error, relative to the spread of inputs.

The files are used as an app uses them: pictures go through `preprocessing.json`, texts through
`tokenizer.json`, so that a wrong file beside a right tower is found too. Cosines are not compared:
a fresh CLIP gives all pictures cosines above 0.99999, and so would pass for any other.
"""

import copy
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from students.student import Student, TowerName
from teachers.contract import Preprocess, Tokenizer
from teachers.tokenizers import load_tokenizer

PREPROCESSING_FILE = "preprocessing.json"
TOKENIZER_FILE = "tokenizer.json"
Samples = Sequence[tuple[Image.Image, str]]
Runner = Callable[[np.ndarray], np.ndarray]
_WORDS = ("a", "photo", "of", "red", "small", "cat", "dog", "house", "tree", "letter", "two", "on")


def made_up_samples(tokenizer: Tokenizer, count: int = 16) -> list[tuple[Image.Image, str]]:
    """Coloured patches and random words, for when no real samples are at hand."""
    random = np.random.default_rng(0)
    words = getattr(tokenizer, "words", None) or _WORDS
    samples = []
    for _ in range(count):
        patches = random.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        image = Image.fromarray(patches).resize((96, 96), Image.Resampling.NEAREST)
        samples.append((image, " ".join(random.choice(words, random.integers(1, 9)))))
    return samples


class Reference:
    """What the model itself says of the samples; computed once for all formats.

    Args:
        student: the model, as trained: its folded form is part of what is checked.
        samples: pictures with texts, at least two different of each.

    Raises:
        ValueError: when the samples are too few, or all the same.
    """

    def __init__(self, student: Student, samples: Samples) -> None:
        """Embed the samples on the CPU in float32."""
        if len(samples) < 2:
            raise ValueError(f"parity needs two (image, text) samples or more, got {len(samples)}")
        self.tokenizer = student.tokenizer
        self.images = [image for image, _ in samples]
        self.texts = [text for _, text in samples]
        eager = copy.deepcopy(student).cpu().float().eval()
        with torch.no_grad():
            self.rows: dict[TowerName, Tensor] = {
                "image": eager.encode_image(self.images),
                "text": eager.encode_text(self.texts),
            }
        given: dict[TowerName, Tensor] = {
            "image": _pixels(student.preprocess, self.images),
            "text": student.tokenizer(self.texts),
        }
        self.spread = {tower: _spread(self.rows[tower], given[tower], tower) for tower in given}

    def inputs(self, folder: Path, tower: TowerName) -> Tensor:
        """Prepare a tower's inputs from the files in an export folder alone."""
        if tower == "image":
            preprocess = Preprocess.from_config(_read(folder / PREPROCESSING_FILE))
            return _pixels(preprocess, self.images)
        config = _read(folder / TOKENIZER_FILE)
        try:
            tokenizer = load_tokenizer(config)
        except ValueError:  # of the user's own make: the file cannot rebuild it
            tokenizer = self.tokenizer
        return tokenizer(self.texts)

    def check(self, run: Runner, folder: Path, tower: TowerName, tolerance: float) -> float:
        """Return a shipped tower's relative error.

        Raises:
            RuntimeError: when it is above `tolerance`.
        """
        inputs = self.inputs(folder, tower)
        # One row first, then threes: the batch has to be free.
        shipped = np.concatenate([run(part.numpy()) for part in (inputs[:1], *inputs[1:].split(3))])
        spread = self.spread[tower]
        distance = (torch.from_numpy(shipped) - self.rows[tower]).norm(dim=-1).max().item()
        error = distance / spread if spread > 0 else float("inf")
        if not error <= tolerance:
            raise RuntimeError(
                f"the exported {tower} tower disagrees with the model: relative error {error:.2e} "
                f"is above {tolerance:.0e} (largest distance {distance:.2e}; different inputs are "
                f"{spread:.2e} apart on average). A tower that says the same of all inputs, as an "
                "untrained one nearly does, cannot be checked"
            )
        return error


def _pixels(preprocess: Preprocess, images: Sequence[Image.Image]) -> Tensor:
    views = np.stack([preprocess.whole_view(image) for image in images])
    return preprocess.normalize(torch.from_numpy(views))


def _spread(rows: Tensor, inputs: Tensor, tower: str) -> float:
    """Return the mean distance between the embeddings of different inputs."""
    flat = inputs.flatten(1)
    different = torch.stack([(flat != row).any(dim=1) for row in flat])
    if not different.any():
        raise ValueError(f"parity needs at least two different {tower} samples, got {len(rows)}")
    apart = (rows[:, None] - rows[None]).norm(dim=-1)
    return apart[different].mean().item()


def _read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))
