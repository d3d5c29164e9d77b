"""The gain of a LayerNorm that is left with fewer units than the donor's had.

A LayerNorm divides by how far its units spread. Where the kept units spread further than all did,
as those that a score prefers do, what is read from them becomes too small by that factor, the same
for every input if the stream's mean is zero. So the factor goes into the LayerNorm's weight. On
batches it is fitted; without them only units that nothing writes to are known to spread less, and
their share of the factor is exact. Left out: the mean's change (in the bias it helped on some
donors and hurt on others) and GroupNorm.
"""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from students.inheritance.annotation import TowerAxes
from students.inheritance.measuring import by_unit


def fitted_gain(seen: Float[Tensor, "rows units"], kept: Sequence[int]) -> float:
    """What brings a LayerNorm over the kept units nearest to what it gave them among all.

    Args:
        seen: what the donor's LayerNorm was given.
        kept: the donor's unit for each of the student's.
    """
    some = seen[:, torch.tensor(kept)]
    mean, spread = seen.mean(1, keepdim=True), seen.std(1, correction=0, keepdim=True)
    mine, own_spread = some.mean(1, keepdim=True), some.std(1, correction=0, keepdim=True)
    wanted = (some - mean) / spread
    given = (some - mine) / own_spread
    gain = ((wanted * given).sum() / given.square().sum()).item()
    # A picture of one colour, or a stream of nothing, says nothing.
    return gain if 0 < gain < float("inf") else 1.0


def silent_gain(
    tower: TowerAxes, weights: Mapping[str, Tensor], axis: str, kept: Sequence[int]
) -> float:
    """What the dropped units that nothing is written to took from the spread of the others.

    Args:
        tower: the donor's.
        weights: the donor's, by key.
        axis: the donor's; `kept` its unit for each of the student's.
    """
    size = tower.axes[axis].size
    silent = torch.ones(size, dtype=torch.bool)
    silent[torch.tensor(kept)] = False
    for role, slot in tower.slots.items():
        if not slot.learned or role in tower.norms:
            continue
        for number, dim in slot.places(axis):
            if dim not in slot.summed and silent.any():
                values = by_unit(tower, slot, slot.read(weights[slot.key].detach()), number)
                silent &= (values == 0).all(1).cpu()
    return (size / (size - int(silent.sum()))) ** 0.5
