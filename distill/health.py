"""Warnings for runs that go on but learn little: each said once, with its figure and what to do.

A collapsed temperature, affinity targets that are nearly uniform or nearly one-hot (MobileCLIP2
found the teacher's scale to matter most), and a loader that cannot keep up.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from distill.objective import Objective
from teachers.contract import Embeddings

_COLLAPSED_SCALE = 2.0
_UNIFORM, _ONE_HOT = 0.97, 0.02
_STARVED = 0.4
_PATIENCE = 3
_MOST_ROWS = 512


class Health:
    """Looks at a run with every log line; `warnings` are those not said before."""

    def __init__(self, objective: Objective) -> None:
        """Nothing has been said."""
        self._objective = objective
        self._said: set[str] = set()
        self._starved = 0
        self.all: list[str] = []

    def warnings(
        self, *, logit_scale: float, share_waited: float, teachers: Sequence[Embeddings]
    ) -> list[str]:
        """Return new warnings.

        Args:
            logit_scale: the student's factor itself.
            share_waited: of the time since the last look, in the loader.
            teachers: their rows of this step's batch.
        """
        found = {"scale": self._scale(logit_scale), "data": self._data(share_waited)}
        if self._objective.affinity and "affinity" not in self._said:
            found["affinity"] = self._affinity(teachers)
        new = {name: text for name, text in found.items() if text and name not in self._said}
        self._said.update(new)
        self.all.extend(new.values())
        return list(new.values())

    def _scale(self, scale: float) -> str | None:
        if scale >= _COLLAPSED_SCALE:
            return None
        return (
            f"the logit scale has collapsed to {scale:.2f}: all pairs look alike to the loss. "
            "Lower optimizer.lr, warm up longer, or start with a scale near 14 (1 / 0.07)"
        )

    def _data(self, share: float) -> str | None:
        self._starved = self._starved + 1 if share > _STARVED else 0
        if self._starved < _PATIENCE:
            return None
        return (
            f"{100 * share:.0f} % of the time goes by waiting for data: raise data.num_workers, "
            "put the store and its source on a faster disk, or take smaller pictures"
        )

    def _affinity(self, teachers: Sequence[Embeddings]) -> str | None:
        spec = self._objective
        for number, teacher in enumerate(teachers):
            factor = spec.teacher_scales[number] if spec.teacher_scales else spec.teacher_scale
            share = target_entropy(teacher, factor)
            if share is None or _ONE_HOT <= share <= _UNIFORM:
                continue
            what, way = ("nearly uniform", "raise") if share > _UNIFORM else ("one-hot", "lower")
            return (
                f"teacher {number}'s affinity targets are {what}: their entropy is {share:.3f} of "
                f"log(batch), so they teach {'nothing' if share > _UNIFORM else 'only the pairs'}. "
                f"{way.capitalize()} objective.teacher_scale (now {factor})"
            )
        return None


@torch.no_grad()
def target_entropy(teacher: Embeddings, factor: float) -> float | None:
    """Mean entropy of a softmax teacher's targets over log n: 1 is uniform, 0 one-hot.

    None for a sigmoid teacher, whose targets are no distribution, for one of a single modality,
    and for fewer than two rows.
    """
    image, text = teacher.image[:_MOST_ROWS].float(), teacher.text[:_MOST_ROWS].float()
    if teacher.logit_bias is not None or len(image) < 2 or not image.shape[1] or not text.shape[1]:
        return None
    logits: Tensor = factor * teacher.logit_scale * image @ text.T
    logs = torch.log_softmax(logits, dim=1)
    return float(-(logs.exp() * logs).sum(1).mean()) / math.log(len(image))
