"""What `image_text_loss` is measured against: each the whole objective, as its users write it.

A rival takes a student and its teachers and returns contrastive + affinity, ready for backward.
Products are in the rows' dtype, softmaxes in float32, as open_clip has them under autocast.

    eager             open_clip's losses: every N x N matrix is kept for backward
    compiled          `torch.compile` of it
    chunk_checkpoint  strips of rows, each recomputed in backward: the strong baseline in O(N d)
    inf_cl            inf-cl 1.2.1 (Inf-CLIP), both directions; hard loss only
    siglip_kernel     siglip-kernel 0.1.2; hard sigmoid loss only

The last two are no dependencies: `pip install --no-deps inf-cl==1.2.1 siglip-kernel==0.1.2`.
"""

import importlib.util
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from distill.ops import Embeddings

Rival = Callable[[Embeddings, Sequence[Embeddings]], Tensor]

STRIP = 2048  # rows


def installed(name: str) -> bool:
    """Whether a rival can run here."""
    package = {"inf_cl": "inf_cl", "siglip_kernel": "siglip_kernel"}.get(name)
    return package is None or importlib.util.find_spec(package) is not None


def eager(student: Embeddings, teachers: Sequence[Embeddings] = ()) -> Tensor:
    """Softmax losses of both directions over whole matrices."""
    rows = _strip(student, teachers, slice(0, len(student.image)))
    columns = _strip(_swapped(student), [*map(_swapped, teachers)], slice(0, len(student.image)))
    return (rows + columns) / (2 * len(student.image))


compiled = torch.compile(eager)


def chunk_checkpoint(student: Embeddings, teachers: Sequence[Embeddings] = ()) -> Tensor:
    """The same strip by strip; backward computes a strip again instead of keeping it."""
    total = student.image.new_zeros((), dtype=torch.float32)
    n = len(student.image)
    sides = ((student, teachers), (_swapped(student), [*map(_swapped, teachers)]))
    for start in range(0, n, STRIP):
        rows = slice(start, min(start + STRIP, n))
        for model, taught in sides:
            total = total + checkpoint(_strip, model, taught, rows, use_reentrant=False)
    return total / (2 * n)


def inf_cl(student: Embeddings, teachers: Sequence[Embeddings] = ()) -> Tensor:
    """Inf-CL: one direction a call, in float32."""
    from inf_cl import cal_flash_loss

    assert not teachers
    image, text, scale, _ = student
    there, back = ((image, text), (text, image))
    return (
        cal_flash_loss(*there, scale=scale).mean() + cal_flash_loss(*back, scale=scale).mean()
    ) / 2


def eager_sigmoid(student: Embeddings, teachers: Sequence[Embeddings] = ()) -> Tensor:
    """SigLIP's loss over the whole matrix."""
    assert not teachers and student.logit_bias is not None
    scores = _scores(student, slice(0, len(student.image))) + student.logit_bias
    signs = 2 * torch.eye(len(scores), device=scores.device) - 1
    return -F.logsigmoid(signs * scores).sum() / len(scores)


def siglip_kernel(student: Embeddings, teachers: Sequence[Embeddings] = ()) -> Tensor:
    """siglip-kernel's own choice for the device."""
    from siglip_kernel import fused_siglip_loss

    assert not teachers
    return fused_siglip_loss(
        student.image, student.text, student.logit_scale.log(), student.logit_bias
    )


def _swapped(model: Embeddings) -> Embeddings:
    return model._replace(image=model.text, text=model.image)


def _scores(model: Embeddings, rows: slice) -> Tensor:
    return model.logit_scale * (model.image[rows] @ model.text.T).float()


def _strip(student: Embeddings, teachers: Sequence[Embeddings], rows: slice) -> Tensor:
    """Sum over some rows of the hard loss and of the mean-probability affinity."""
    log_chances = F.log_softmax(_scores(student, rows), dim=1)
    here = torch.arange(rows.start, rows.stop, device=log_chances.device)
    loss = F.nll_loss(log_chances, here, reduction="sum")
    if teachers:
        with torch.no_grad():
            chances = [F.softmax(_scores(teacher, rows), dim=1) for teacher in teachers]
            target = torch.stack(chances).mean(0) if len(chances) > 1 else chances[0]
        loss = loss - (target * log_chances).sum()
    return loss
