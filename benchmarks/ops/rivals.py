"""Packages that `image_text_loss` is measured against, called as their users call them.

    inf_cl            inf-cl 1.2.1 (Inf-CLIP), both directions; hard loss only
    siglip_kernel     siglip-kernel 0.1.2; hard sigmoid loss only

A rival takes a student and its teachers (none) and returns the loss, ready for backward. They are
no dependencies: `pip install --no-deps inf-cl==1.2.1 siglip-kernel==0.1.2`.
"""

import importlib.util
from collections.abc import Sequence

from torch import Tensor

from distill.ops import Embeddings


def installed(name: str) -> bool:
    """Whether a rival can run here."""
    return importlib.util.find_spec(name) is not None


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
