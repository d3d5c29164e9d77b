"""The mean of several students' weights as a student of its own.

Sums run in float64, so that a weight of one alone gives back the same bits. BatchNorm's running
statistics are no weights: those of a mean have to be measured anew (torch's `update_bn`).
"""

import copy
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from distill.evaluation.embedding import first
from distill.samples import decoded
from reinforced_data.source import open_source
from students import Student

_BATCH = 64


def check_same_shapes(students: Sequence[Student]) -> None:
    """Refuse to average what does not correspond.

    Raises:
        ValueError: names what differs.
    """
    first = students[0]
    for other in students[1:]:
        for what in ("preprocess", "tokenizer", "kind"):
            if first.config[what] != other.config[what]:
                raise ValueError(
                    f"{first.name} and {other.name} cannot be merged: their {what} differs"
                )
        mine, theirs = (
            {name: tuple(value.shape) for name, value in student.module.state_dict().items()}
            for student in (first, other)
        )
        wrong = sorted(n for n in mine.keys() | theirs.keys() if mine.get(n) != theirs.get(n))
        if wrong:
            shown = ", ".join(f"{n} {mine.get(n)} / {theirs.get(n)}" for n in wrong[:3])
            raise ValueError(
                f"{first.name} and {other.name} cannot be merged: {len(wrong)} weights differ in "
                f"shape, such as {shown}. Merge students of one architecture only"
            )


def average(students: Sequence[Student], weights: Sequence[float]) -> Student:
    """The weighted mean; what is not a floating-point number is the heaviest student's.

    Args:
        students: of the same shapes.
        weights: one each, summing to 1.
    """
    assert len(students) == len(weights) and abs(sum(weights) - 1) < 1e-9
    heaviest = max(range(len(weights)), key=weights.__getitem__)
    states = [student.module.state_dict() for student in students]
    mean: dict[str, Tensor] = {}
    for name, value in states[heaviest].items():
        if not value.is_floating_point():
            mean[name] = value
            continue
        parts = [w * s[name].double() for w, s in zip(weights, states, strict=True) if w]
        mean[name] = torch.stack(parts).sum(0).to(value.dtype)
    merged = copy.deepcopy(students[heaviest])
    merged.module.load_state_dict(mean)
    return merged.eval()


def has_running_statistics(student: Student) -> bool:
    """Whether a part of it keeps statistics of what it has seen."""
    norms = nn.modules.batchnorm._NormBase
    return any(isinstance(m, norms) and m.track_running_stats for m in student.modules())


def measure_statistics(student: Student, source: str, limit: int) -> None:
    """Put the statistics of so many samples in place of the running ones.

    Raises:
        ValueError: the source has no usable sample.
    """
    batches = list(_batches(student, source, limit))
    if not batches:
        raise ValueError(f"statistics_on: no sample of {source} could be used")
    update_bn(batches, _Both(student))
    student.eval()


class _Both(nn.Module):
    """Both towers at once: `update_bn` resets every norm there is, and each has to see data."""

    def __init__(self, student: Student) -> None:
        super().__init__()
        self.student = student

    def forward(self, batch: dict[str, Any]) -> None:
        self.student(batch["pixels"], batch["tokens"])


def _batches(student: Student, source: str, limit: int) -> Iterator[dict[str, Tensor]]:
    """Pictures with a caption, as the student sees them; a last batch of one is left out."""
    samples = first((s for s in open_source(source) if s.captions), limit)
    for part in _parts(decoded(samples)):
        views = [student.preprocess.whole_view(picture) for _, picture in part]
        tokens = student.tokenizer([sample.captions[0] for sample, _ in part])
        pixels = torch.stack([torch.from_numpy(view) for view in views])
        yield {
            "pixels": student.preprocess.normalize(pixels.to(student.device)),
            "tokens": tokens.to(student.device),
        }


def _parts(samples: Iterator[Any]) -> Iterator[list[Any]]:
    while len(part := list(itertools.islice(samples, _BATCH))) > 1:
        yield part
