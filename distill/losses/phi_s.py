"""PHI-S: one rotation and one scale after which every dimension has variance 1 (arXiv:2410.01680).

With the covariance U diag(e) U^T of a teacher's rows and Q a spreading rotation (`hadamard.py`):

    y = Q U^T (x - mean) / sqrt(mean(e))

It is invertible and keeps angles and ratios of distances, unlike whitening, and it stops the
loudest teacher from deciding a sum of squared distances. RADIO applies it to raw features; here
to unit rows, which is what training reads of a store. Cosines become those of centred rows, so it
is for squared distances alone. Where RADIO takes a random rotation (no Hadamard matrix of that
width), this one is exact too.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

from distill.losses.hadamard import spreading_rotation


class Moments:
    """Count, mean and scatter of rows that come in parts, in float64 (Chan's update)."""

    def __init__(self, dim: int) -> None:
        """Start from nothing."""
        self.count = 0
        self.mean = torch.zeros(dim, dtype=torch.float64)
        self._scatter = torch.zeros(dim, dim, dtype=torch.float64)

    def add(self, rows: Float[Tensor, "n d"]) -> None:
        """Take in some rows."""
        if not rows.shape[0]:
            return
        rows = rows.double()
        mean = rows.mean(dim=0)
        centred, apart = rows - mean, mean - self.mean
        total = self.count + rows.shape[0]
        self._scatter += centred.T @ centred
        self._scatter += torch.outer(apart, apart) * (self.count * rows.shape[0] / total)
        self.mean += apart * (rows.shape[0] / total)
        self.count = total

    def covariance(self) -> Float64[Tensor, "d d"]:
        """Return the covariance of all rows so far (divided by their number)."""
        return self._scatter / max(1, self.count)


@dataclass(frozen=True, kw_only=True, eq=False)
class Standardization:
    """A fitted PHI-S; all in float64.

    Attributes:
        mean: of the rows it was fitted on, `(d,)`.
        rotation: orthogonal, `(d, d)`.
        deviation: the root of the mean variance.
    """

    mean: Float64[Tensor, " d"]
    rotation: Float64[Tensor, "d d"]
    deviation: float

    @property
    def matrix(self) -> Float64[Tensor, "d d"]:
        """Rotation and scale in one."""
        return self.rotation / self.deviation

    def tensors(self) -> dict[str, Tensor]:
        """Everything, for a file."""
        deviation = torch.tensor(self.deviation, dtype=torch.float64)
        return {"mean": self.mean, "rotation": self.rotation, "deviation": deviation}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> "Standardization":
        """Undo `tensors`."""
        return cls(
            mean=tensors["mean"],
            rotation=tensors["rotation"],
            deviation=float(tensors["deviation"]),
        )


def phi_s(moments: Moments) -> Standardization:
    """Fit to what `moments` has seen.

    Raises:
        ValueError: fewer than two rows, or rows that do not vary.
    """
    variances, basis = torch.linalg.eigh(moments.covariance())
    variances = variances.clamp(min=0)
    deviation = float(variances.mean().sqrt())
    if moments.count < 2 or not deviation > 1e-12:
        raise ValueError(
            f"cannot standardise: {moments.count} rows with a standard deviation of "
            f"{deviation:.3g}; two different rows are the least"
        )
    rotation = spreading_rotation(variances) @ basis.T
    return Standardization(mean=moments.mean.clone(), rotation=rotation, deviation=deviation)


def standardize(
    rows: Float[Tensor, "n d"], to: "Standardization | Standardize"
) -> Float[Tensor, "n d"]:
    """Apply `to`, in the dtype of the rows."""
    return (rows - to.mean.to(rows)) @ to.matrix.to(rows).T


def unstandardize(rows: Float[Tensor, "n d"], to: Standardization) -> Float[Tensor, "n d"]:
    """Undo `standardize`."""
    return rows @ (to.rotation * to.deviation).to(rows) + to.mean.to(rows)


class Standardize(nn.Module):
    """`standardize` with what it needs as buffers: on the right device, and in checkpoints."""

    mean: Tensor
    matrix: Tensor

    def __init__(self, to: Standardization) -> None:
        """Keep float32 copies."""
        super().__init__()
        self.register_buffer("mean", to.mean.float())
        self.register_buffer("matrix", to.matrix.float())

    def forward(self, rows: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """Standardise, in the dtype of the buffers."""
        return standardize(rows.to(self.mean.dtype), self)
