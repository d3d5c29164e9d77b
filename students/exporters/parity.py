"""Does the shipped file do what the model does? Largest error, relative to the spread of inputs.

The files are used as an app uses them: pictures go through `preprocessing.json`, texts through
`tokenizer.json`, so that a wrong file beside a right tower is found too. Cosines are not compared:
a fresh CLIP gives all pictures cosines above 0.99999, and so would pass for any other.
"""

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from students.exporters.feeding import PREPROCESSING_FILE, TOKENIZER_FILE
from students.exporters.graph import GraphName
from students.student import Student
from teachers.clip_model import unit_rows
from teachers.contract import Preprocess, Tokenizer
from teachers.tokenizers import load_tokenizer

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


class ParityError(RuntimeError):
    """A shipped file that does not do what the model does."""


class Reference:
    """What the model itself says of the samples; computed once for all formats.

    Args:
        student: the model, as trained: its folded form is part of what is checked.
        samples: pictures with texts, at least two different of each.
        classes: a label set, name to prompts, whose scores are `zero_shot`'s rows.
        inside: whether picture files take bytes `(n, size, size, 3)`.

    Raises:
        ValueError: when the samples are too few, or all the same.
    """

    def __init__(
        self,
        student: Student,
        samples: Samples,
        *,
        classes: Mapping[str, Sequence[str]] | None = None,
        inside: bool = False,
    ) -> None:
        """Embed the samples on the CPU in float32."""
        if len(samples) < 2:
            raise ValueError(f"parity needs two (image, text) samples or more, got {len(samples)}")
        self.tokenizer = student.tokenizer
        self.inside = inside
        self.classes = classes or {}
        self.images = [image for image, _ in samples]
        self.texts = [text for _, text in samples]
        self.eager = eager = copy.deepcopy(student).cpu().float().eval()
        with torch.no_grad():
            self.rows: dict[GraphName, Tensor] = {
                "image": eager.encode_image(self.images),
                "text": eager.encode_text(self.texts),
            }
            if self.classes:
                self.class_rows = _class_rows(eager, self.classes)
                head = eager.with_head(self.rows["image"], self.class_rows)
                bias = 0.0 if head.logit_bias is None else head.logit_bias
                self.rows["zero_shot"] = head.logit_scale * head.image @ head.text.T + bias
        pictures = _views(student.preprocess, self.images)
        given = {"image": pictures, "text": student.tokenizer(self.texts), "zero_shot": pictures}
        self.spread = {name: _spread(rows, given[name], name) for name, rows in self.rows.items()}

    def inputs(self, folder: Path, name: GraphName) -> Tensor:
        """Prepare a graph's inputs from the files in an export folder alone."""
        if name != "text":
            preprocess = Preprocess.from_config(_read(folder / PREPROCESSING_FILE))
            views = _views(preprocess, self.images)
            return views if self.inside else preprocess.normalize(views)
        config = _read(folder / TOKENIZER_FILE)
        try:
            tokenizer = load_tokenizer(config)
        except ValueError:  # of the user's own make: the file cannot rebuild it
            tokenizer = self.tokenizer
        return tokenizer(self.texts)

    def check(self, run: Runner, folder: Path, name: GraphName, tolerance: float) -> float:
        """Return a shipped file's relative error.

        Raises:
            ParityError: when it is above `tolerance`.
        """
        return self.judge(self.shipped(run, folder, name), name, tolerance)

    def shipped(self, run: Runner, folder: Path, name: GraphName) -> Tensor:
        """Run a shipped file on the samples."""
        inputs = self.inputs(folder, name)
        # One row first, then threes: the batch has to be free.
        parts = [run(part.numpy()) for part in (inputs[:1], *inputs[1:].split(3))]
        return torch.from_numpy(np.concatenate(parts))

    def judge(self, shipped: Tensor, name: GraphName, tolerance: float) -> float:
        """Return the relative error of shipped rows; see `check`."""
        spread = self.spread[name]
        distance = (shipped - self.rows[name]).norm(dim=-1).max().item()
        error = distance / spread if spread > 0 else float("inf")
        if not error <= tolerance:
            raise ParityError(
                f"the exported {name} tower disagrees with the model: relative error {error:.2e} "
                f"is above {tolerance:g} (largest distance {distance:.2e}; different inputs are "
                f"{spread:.2e} apart on average). A tower that says the same of all inputs, as an "
                "untrained one nearly does, cannot be checked"
            )
        return error


def _views(preprocess: Preprocess, images: Sequence[Image.Image]) -> Tensor:
    return torch.from_numpy(np.stack([preprocess.whole_view(image) for image in images]))


def _class_rows(student: Student, classes: Mapping[str, Sequence[str]]) -> Tensor:
    """Average the unit rows of each class's prompts, and scale the mean to norm 1 again."""
    rows = [student.encode_text(list(prompts)).mean(dim=0) for prompts in classes.values()]
    return unit_rows(torch.stack(rows))


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
