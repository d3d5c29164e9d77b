"""Interactive contrastive learning (ICL of CLIP-KD, arXiv:2307.12732).

The student is contrasted against the teacher: its images against the teacher's texts, its texts
against the teacher's images. With v, s the student's adapted unit rows and v', s' the teacher's:

    1/2 [ InfoNCE(t v, s') + InfoNCE(v', t s) ]

Each is the image-text loss as it stands (tiled, equal captions as positives), so both of its
directions count; the paper's anchors are the student's rows alone. The scale t is one learned
number, between 1 and 100; the paper's code forgets to exponentiate it.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from distill.losses.adapters import Adapters
from distill.ops import Embeddings, image_text_loss


def interactive_contrastive(
    image: Float[Tensor, "n d"],
    text: Float[Tensor, "n d"],
    teacher: Embeddings,
    scale: Float[Tensor, ""],
    positives: Int64[Tensor, " n"] | None = None,
) -> Float[Tensor, ""]:
    """Student rows `image` and `text`, already of the teacher's width, against the teacher's."""
    image_against = Embeddings(image, teacher.text.to(image), scale)
    text_against = Embeddings(teacher.image.to(text), text, scale)
    terms = [image_text_loss(p, positives=positives) for p in (image_against, text_against)]
    return (terms[0].contrastive + terms[1].contrastive) / 2


class InteractiveLoss(nn.Module):
    """Linear adapters to each teacher, and the learned scale.

    Args:
        student_dim: width of the student's embeddings.
        teacher_dims: width of each teacher's; all have both modalities.
        weights: one per teacher; equal when None.
    """

    def __init__(
        self, student_dim: int, teacher_dims: Sequence[int], weights: Sequence[float] | None = None
    ) -> None:
        """Build the adapters; they train with the student and are not exported."""
        super().__init__()
        self._weights = list(weights or [1.0] * len(teacher_dims))
        self.image = Adapters(student_dim, teacher_dims)
        self.text = Adapters(student_dim, teacher_dims)
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def forward(
        self,
        student: Embeddings,
        teachers: Sequence[Embeddings],
        positives: Int64[Tensor, " n"] | None = None,
    ) -> Float[Tensor, ""]:
        """Weighted mean over teachers."""
        with torch.no_grad():
            self.log_scale.clamp_(0.0, math.log(100.0))
        terms = []
        with torch.autocast(student.image.device.type, enabled=False):
            for k, (teacher, weight) in enumerate(zip(teachers, self._weights, strict=True)):
                image = F.normalize(self.image(student.image, k), dim=1)
                text = F.normalize(self.text(student.text, k), dim=1)
                scale = self.log_scale.exp()
                terms.append(
                    weight * interactive_contrastive(image, text, teacher, scale, positives)
                )
        return torch.stack(terms).sum() / sum(self._weights)
