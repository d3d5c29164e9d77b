"""Learned masks: a student finds its own widths and depth while it trains (TinyCLIP's "auto").

Reading order: `gates` (one mask's mathematics), `sizes` and `families` (what of a student may
shrink), `shrinking` (the configuration of the smaller one), `costs`, `masks` (the trained numbers),
`masking` (a student that computes as the smaller one would), `folding` (the smaller one).
docs/masks.md has the why.
"""

from students.masks.families import sizes_of
from students.masks.folding import fold, read_masks
from students.masks.masking import mask, unmask
from students.masks.masks import Masks
from students.masks.shrinking import shrunk_student
from students.masks.sizes import Size

__all__ = [
    "Masks",
    "Size",
    "fold",
    "mask",
    "read_masks",
    "shrunk_student",
    "sizes_of",
    "unmask",
]
