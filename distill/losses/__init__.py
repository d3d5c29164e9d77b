"""Training losses as thin modules over `distill.ops`."""

from distill.losses.feature import FeatureLoss

__all__ = ["FeatureLoss"]
