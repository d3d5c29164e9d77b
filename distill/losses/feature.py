"""Feature mimicking: the student's rows, mapped linearly, should be the teachers' rows.

CLIP-KD (arXiv:2307.12732) found it the strongest single distillation term. The distance is
squared, summed over the dimensions and averaged over the batch, so that for unit rows it is
2 - 2 cos and does not depend on the width. Leaves out intermediate layers.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from teachers.contract import Embeddings


class FeatureLoss(nn.Module):
    """One linear adapter per teacher and modality; identity at the start where widths allow.

    Args:
        student_dim: width of the student's embeddings.
        teacher_dims: width of each teacher's.
    """

    def __init__(self, student_dim: int, teacher_dims: Sequence[int]) -> None:
        """Build the adapters; they train with the student and are not exported."""
        super().__init__()
        self.image = nn.ModuleList(_adapter(student_dim, width) for width in teacher_dims)
        self.text = nn.ModuleList(_adapter(student_dim, width) for width in teacher_dims)

    def forward(self, student: Embeddings, teachers: Sequence[Embeddings]) -> Float[Tensor, ""]:
        """Mean over teachers and both modalities of the squared distance."""
        terms = []
        # Distances are float32 also under autocast.
        with torch.autocast(student.image.device.type, enabled=False):
            for k, teacher in enumerate(teachers):
                terms.append(_squared_distance(self.image[k](student.image), teacher.image))
                terms.append(_squared_distance(self.text[k](student.text), teacher.text))
        return torch.stack(terms).mean()


def _adapter(student_dim: int, teacher_dim: int) -> nn.Linear:
    """A linear map without bias: unit rows have no offset to correct."""
    adapter = nn.Linear(student_dim, teacher_dim, bias=False)
    if student_dim == teacher_dim:
        nn.init.eye_(adapter.weight)
    else:
        nn.init.orthogonal_(adapter.weight)
    return adapter


def _squared_distance(
    rows: Float[Tensor, "n d"], target: Float[Tensor, "n d"]
) -> Float[Tensor, ""]:
    return (rows - target.to(rows)).square().sum(dim=1).mean()
