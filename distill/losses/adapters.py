"""Maps from the student's rows to a teacher's width; they train along and are not exported.

"linear" begins as the identity where the widths are equal, else as an orthogonal map; with
standardised targets (`phi_s.py`) it begins as that followed by the standardisation, so that a
student that starts from the teacher's weights starts at the target. "mlp" is one hidden GELU layer
of twice the larger width, as RADIO's heads (arXiv:2312.06709), without their normalisation.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from distill.losses.phi_s import Standardization

AdapterKind = Literal["linear", "mlp"]
Modality = Literal["image", "text"]
MODALITIES: tuple[Modality, Modality] = ("image", "text")

# Of a teacher's image rows and text rows; one number where both are equal, as they are in a CLIP.
# A teacher that has no rows of a modality has width 0 there, and its rows are (n, 0).
Width = int | tuple[int, int]
# Of a teacher's image rows and text rows.
Standards = dict[Modality, Standardization]


def width_of(width: Width, modality: Modality) -> int:
    """Width of a teacher's rows of one modality; 0 when it has none."""
    return width if isinstance(width, int) else width[MODALITIES.index(modality)]


class Adapters(nn.Module):
    """One map per teacher for one modality; those without rows of it get an identity."""

    def __init__(
        self,
        student_dim: int,
        widths: Sequence[int],
        kind: AdapterKind = "linear",
        standards: Sequence[Standardization | None] = (),
    ) -> None:
        """Build the maps; `standards` is what each teacher's targets go through, if anything."""
        super().__init__()
        self.maps = nn.ModuleList(
            _adapter(kind, student_dim, width, standard) if width else nn.Identity()
            for width, standard in zip(widths, standards or [None] * len(widths), strict=True)
        )

    def forward(self, rows: Float[Tensor, "n s"], teacher: int) -> Float[Tensor, "n t"]:
        """Map student rows to the width of teacher number `teacher`."""
        parameter = next(self.maps[teacher].parameters())
        return self.maps[teacher](rows.to(parameter.dtype))


def _adapter(
    kind: AdapterKind, student_dim: int, width: int, standard: Standardization | None
) -> nn.Module:
    if kind == "mlp":
        hidden = 2 * max(student_dim, width)
        return nn.Sequential(nn.Linear(student_dim, hidden), nn.GELU(), nn.Linear(hidden, width))
    # Unit rows have no offset to correct; standardised ones have lost their mean.
    adapter = nn.Linear(student_dim, width, bias=standard is not None)
    if student_dim == width:
        nn.init.eye_(adapter.weight)
    else:
        nn.init.orthogonal_(adapter.weight)
    if standard is not None:
        with torch.no_grad():
            adapter.weight.copy_(standard.matrix @ adapter.weight.double())
            adapter.bias.copy_(-standard.matrix @ standard.mean)
    return adapter
