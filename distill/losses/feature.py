"""Feature mimicking: the student's rows, mapped by an adapter, should be the teachers' rows.

CLIP-KD (arXiv:2307.12732, FD) found it the strongest single distillation term. Per sample:

    mse      |A(x) - y|^2                    for unit rows 2 - 2 cos, whatever the width
    cosine   1 - A(x) y / |A(x)| |y|

With standardised targets (`phi_s.py`) the squared distance is divided by the width: every
dimension has variance 1 there. Several teachers are averaged with their weights, or, with teacher
dropping (UNIC, arXiv:2408.05088), per sample over the hardest teacher and those of the
others that are not dropped. A teacher without rows of a modality takes no part in it. Leaves out
intermediate layers.
"""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from distill.losses.adapters import (
    MODALITIES,
    AdapterKind,
    Adapters,
    Modality,
    Standards,
    Width,
    width_of,
)
from distill.losses.phi_s import Standardize
from teachers.contract import Embeddings

Distance = Literal["mse", "cosine"]


def squared_distances(
    rows: Float[Tensor, "n d"], target: Float[Tensor, "n d"]
) -> Float[Tensor, " n"]:
    """Squared distance of each row to its target, summed over the dimensions."""
    return (rows - target.to(rows)).square().sum(dim=1)


def cosine_distances(
    rows: Float[Tensor, "n d"], target: Float[Tensor, "n d"]
) -> Float[Tensor, " n"]:
    """One minus the cosine of each row with its target."""
    return 1 - F.cosine_similarity(rows, target.to(rows), dim=1)


def drop_teachers(
    losses: Float[Tensor, "n k"], probability: float, seed: int
) -> Float[Tensor, "n k"]:
    """Return 1 for the teachers that a sample learns from, 0 for those dropped.

    The teacher with the sample's largest loss stays; each other goes with `probability`. What is
    drawn is a function of the seed and the row, so all ranks that see the same rows agree.
    """
    generator = torch.Generator().manual_seed(seed)
    draws = torch.rand(losses.shape, generator=generator)
    kept = (draws >= probability).to(losses)
    return kept.scatter(1, losses.detach().argmax(dim=1, keepdim=True), 1.0)


class FeatureLoss(nn.Module):
    """One adapter per teacher and modality, and the mean distance.

    Args:
        student_dim: width of the student's embeddings.
        teacher_dims: width of each teacher's rows; (image, text) where they differ.
        distance: "mse" or "cosine".
        adapter: "linear" or "mlp" (`adapters.py`).
        weights: one per teacher; equal when None.
        dropping: probability of leaving out a teacher that is not a sample's hardest.
        standards: what each teacher's targets are standardised with; nothing when None.
    """

    def __init__(
        self,
        student_dim: int,
        teacher_dims: Sequence[Width],
        *,
        distance: Distance = "mse",
        adapter: AdapterKind = "linear",
        weights: Sequence[float] | None = None,
        dropping: float = 0.0,
        standards: Sequence[Standards] | None = None,
    ) -> None:
        """Build the adapters; they train with the student and are not exported."""
        super().__init__()
        self._distance, self._dropping = distance, dropping
        self._weights = list(weights or [1.0] * len(teacher_dims))
        self._standardised = standards is not None
        self.adapters, self.standards = nn.ModuleDict(), nn.ModuleDict()
        self._having: dict[Modality, list[int]] = {}
        for modality in MODALITIES:
            widths = [
                width_of(dims, modality) if weight else 0
                for dims, weight in zip(teacher_dims, self._weights, strict=True)
            ]
            self._having[modality] = [k for k, width in enumerate(widths) if width]
            own = [(standards or [{}] * len(widths))[k].get(modality) for k in range(len(widths))]
            self.adapters[modality] = Adapters(student_dim, widths, adapter, own)
            self.standards[modality] = nn.ModuleList(
                nn.Identity() if standard is None else Standardize(standard) for standard in own
            )

    def forward(
        self, student: Embeddings, teachers: Sequence[Embeddings], seed: int = 0
    ) -> Float[Tensor, ""]:
        """Mean over the modalities; `seed` is what teacher dropping draws from."""
        terms = []
        # Distances are float32 also under autocast.
        with torch.autocast(student.image.device.type, enabled=False):
            for number, modality in enumerate(MODALITIES):
                having = self._having[modality]
                if not having:
                    continue
                distances = [self._distances(student, teachers[k], modality, k) for k in having]
                losses = torch.stack(distances, dim=1)
                weights = losses.new_tensor([self._weights[k] for k in having]).expand_as(losses)
                if self._dropping:
                    weights = weights * drop_teachers(losses, self._dropping, seed + number)
                terms.append((weights * losses).sum() / weights.sum())
        return torch.stack(terms).mean()

    def _distances(
        self, student: Embeddings, teacher: Embeddings, modality: Modality, k: int
    ) -> Float[Tensor, " n"]:
        rows = self.adapters[modality](getattr(student, modality), k)
        target = self.standards[modality][k](getattr(teacher, modality))  # type: ignore[index]
        if self._distance == "cosine":
            return cosine_distances(rows, target)
        return squared_distances(rows, target) / (target.shape[1] if self._standardised else 1)
