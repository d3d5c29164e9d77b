"""torch-pruning's importances as selectors (DepGraph, arXiv:2301.12900).

torch-pruning finds its groups by tracing a model, which goes wrong on fused attention and on
FastViT. Here the groups are the axes that inheritance has found, whatever the tower: each weight
that carries an axis is shown to the importance as a linear layer that writes to it or reads it.
Left out: importances that need gradients (`selector="taylor"` measures that) or BatchNorm layers.
"""

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple

from jaxtyping import Float
from torch import Tensor, nn

from students.inheritance.selectors import Carrier, Scorer


class _Item(NamedTuple):
    """An entry of a torch-pruning group."""

    dep: SimpleNamespace
    idxs: list[int]

    @property
    def root_idxs(self) -> list[int]:
        """The axis's own units: here every entry is numbered alike."""
        return self.idxs


def from_torch_pruning(importance: Callable[[Any], Any]) -> Scorer:
    """Make a selector of a torch-pruning importance.

        inherit(student, donor, selector=from_torch_pruning(tp.importance.FPGMImportance()))

    Args:
        importance: `GroupMagnitudeImportance`, `LAMPImportance`, `FPGMImportance`,
            `RandomImportance`, or one of your own.

    Raises:
        ValueError: the importance needs more than weights.
    """
    from torch_pruning.pruner import importance as theirs

    needy = (
        theirs.GroupTaylorImportance,
        theirs.GroupHessianImportance,
        theirs.BNScaleImportance,
        theirs.ActivationImportance,
        theirs.OBDCImportance,
    )
    if isinstance(importance, needy):
        raise ValueError(
            f"{type(importance).__name__} needs more than weights (gradients, BatchNorms or "
            'activations); "taylor" and "activation" measure those here'
        )

    def score(carriers: Sequence[Carrier]) -> Float[Tensor, " units"]:
        return importance([_item(carrier) for carrier in carriers]).float()

    return score


def _item(carrier: Carrier) -> _Item:
    from torch_pruning.pruner import function

    units, rest = carrier.weight.shape
    layer = nn.Linear(units, rest, bias=False) if carrier.reads else nn.Linear(rest, units, False)
    weight = carrier.weight.T if carrier.reads else carrier.weight
    layer.weight = nn.Parameter(weight.contiguous(), requires_grad=False)
    prune = (
        function.prune_linear_in_channels if carrier.reads else function.prune_linear_out_channels
    )
    return _Item(SimpleNamespace(layer=layer, pruning_fn=prune), list(range(units)))
