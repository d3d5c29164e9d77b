"""Training losses as thin modules over `distill.ops`; docs/losses.md has the equations.

Each is a function of tensors first; a module where something trains along. Rows are those of the
whole batch: gathering over ranks is the caller's (`distill.objective`).
"""

from distill.losses.adapters import Adapters
from distill.losses.fastclip import FastCLIPLoss
from distill.losses.feature import FeatureLoss, cosine_distances, drop_teachers, squared_distances
from distill.losses.interactive import InteractiveLoss, interactive_contrastive
from distill.losses.phi_s import Moments, Standardization, phi_s, standardize, unstandardize
from distill.losses.relational import distance_difference, neighbour_divergence, relational_loss

__all__ = [
    "Adapters",
    "FastCLIPLoss",
    "FeatureLoss",
    "InteractiveLoss",
    "Moments",
    "Standardization",
    "cosine_distances",
    "distance_difference",
    "drop_teachers",
    "interactive_contrastive",
    "neighbour_divergence",
    "phi_s",
    "relational_loss",
    "squared_distances",
    "standardize",
    "unstandardize",
]
