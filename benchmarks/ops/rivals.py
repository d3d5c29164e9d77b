"""What the GPU's goals are measured against: each the whole objective, as its users write it.

A rival takes a student and its teachers and returns contrastive + affinity, ready for backward.
Products are in the rows' dtype, softmaxes in float32, as open_clip has them under autocast.

    chunk_checkpoint  strips of rows, each recomputed in backward: the strong baseline in O(N d)
    inf_cl            inf-cl 1.2.1 (Inf-CLIP), both directions; hard loss only
    siglip_kernel     siglip-kernel 0.1.2; hard sigmoid loss only

The last two are no dependencies: `pip install --no-deps inf-cl==1.2.1 siglip-kernel==0.1.2`.
"""

import importlib.util
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from distill.ops import Embeddings

STRIP = 2048  # rows


def installed(name: str) -> bool:
    """Whether a rival can run here."""
    return name == "chunk_checkpoint" or importlib.util.find_spec(name) is not None


def chunk_checkpoint(student: Embeddings, teachers: Sequence[Embeddings] = ()) -> Tensor:
    """Softmax losses strip by strip; backward computes a strip again instead of keeping it.

    A strip of the student's logits serves both directions; the teachers' column log-sum-exps take
    a pass of their own.
    """
    n = len(student.image)
    strips = [slice(start, min(start + STRIP, n)) for start in range(0, n, STRIP)]
    with torch.no_grad():
        columns = [
            _over([_scores(teacher, rows).logsumexp(0) for rows in strips]) for teacher in teachers
        ]
    parts = [
        checkpoint(_strip, student, teachers, columns, rows, use_reentrant=False) for rows in strips
    ]
    by_column = _over([column for _, column in parts]).sum()
    total = torch.stack([value for value, _ in parts]).sum()
    return (total + by_column * (2 if teachers else 1)) / (2 * n)


def inf_cl(student: Embeddings, teachers: Sequence[Embeddings] = ()) -> Tensor:
    """Inf-CL: one direction a call, in float32."""
    from inf_cl import cal_flash_loss

    assert not teachers
    image, text, scale, _ = student
    there, back = ((image, text), (text, image))
    return (
        cal_flash_loss(*there, scale=scale).mean() + cal_flash_loss(*back, scale=scale).mean()
    ) / 2


def siglip_kernel(student: Embeddings, teachers: Sequence[Embeddings] = ()) -> Tensor:
    """siglip-kernel's own choice for the device."""
    from siglip_kernel import fused_siglip_loss

    assert not teachers
    return fused_siglip_loss(
        student.image, student.text, student.logit_scale.log(), student.logit_bias
    )


def _scores(model: Embeddings, rows: slice) -> Tensor:
    return model.logit_scale * (model.image[rows] @ model.text.T).float()


def _over(strips: list[Tensor]) -> Tensor:
    """Log-sum-exp of whole columns from those of strips."""
    return torch.stack(strips).logsumexp(0)


def _strip(
    student: Embeddings, teachers: Sequence[Embeddings], columns: list[Tensor], rows: slice
) -> tuple[Tensor, Tensor]:
    """The terms that need a strip's rows only, and the strip's column log-sum-exps."""
    scores = _scores(student, rows)
    by_row = scores.logsumexp(1).sum()
    total = by_row - 2 * scores.diagonal(rows.start).sum()
    for teacher, column in zip(teachers, columns, strict=True):
        with torch.no_grad():
            taught = _scores(teacher, rows)
            target = taught.softmax(1) + (taught - column).exp()
        total = total + (by_row - (target * scores).sum()) / len(teachers)
    return total, scores.logsumexp(0)
