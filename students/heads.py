"""Heads that are trained on a frozen encoder's rows: linear, an MLP, or SAIL's gated layer.

A head sees unit rows times the root of their width, so that their entries are of size 1.
"""

from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

from teachers.clip_model import unit_rows

HeadKind = Literal["none", "linear", "mlp", "glu"]
# SAIL's (arXiv:2412.04616): hidden units of the gated head per input.
_GLU_EXPANSION = 8


class GatedLinear(nn.Module):
    """SAIL's alignment layer, StarMLP: W (ReLU6(A x + a) * (B x + b)) + c."""

    def __init__(self, width: int, embed_dim: int) -> None:
        """Draw the weights."""
        super().__init__()
        hidden = _GLU_EXPANSION * width
        self.gate, self.value = nn.Linear(width, hidden), nn.Linear(width, hidden)
        self.out = nn.Linear(hidden, embed_dim)

    def forward(self, rows: Float[Tensor, "n w"]) -> Float[Tensor, "n d"]:
        """Map rows."""
        return self.out(nn.functional.relu6(self.gate(rows)) * self.value(rows))


class Head(nn.Module):
    """What is trained on top of a frozen encoder.

    Args:
        kind: linear; mlp: one hidden GELU layer of twice the larger width; glu: `GatedLinear`.
        width: of the encoder's rows.
        embed_dim: of the student's.
    """

    def __init__(self, kind: HeadKind, width: int, embed_dim: int) -> None:
        """Draw the weights."""
        super().__init__()
        self.width = width
        if kind == "linear":
            self.map: nn.Module = nn.Linear(width, embed_dim)
        elif kind == "mlp":
            hidden = 2 * max(width, embed_dim)
            layers = (nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, embed_dim))
            self.map = nn.Sequential(*layers)
        else:
            assert kind == "glu"
            self.map = GatedLinear(width, embed_dim)

    def forward(self, rows: Float[Tensor, "n w"]) -> Float[Tensor, "n d"]:
        """Map an encoder's rows, of whatever norm."""
        return self.map(unit_rows(rows) * self.width**0.5)
