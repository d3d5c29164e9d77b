"""An optimizer's state goes on when a masked student is folded: cut as the weights are."""

import warnings
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from students.inheritance.applying import gather_plan
from students.inheritance.plan import InheritancePlan


def carry_moments(
    plan: InheritancePlan,
    before: tuple[torch.optim.Optimizer, Mapping[str, nn.Parameter]],
    after: tuple[torch.optim.Optimizer, Mapping[str, nn.Parameter]],
) -> None:
    """Give an optimizer of the smaller student the state of the large one's.

    Tensors shaped like their weight (Adam's moments) are cut; numbers are copied. A gate near 1,
    now part of the weight, is not divided out of them. What has another shape (8-bit optimizers
    hold blocks) starts anew, with a warning.

    Args:
        plan: of the fold.
        before: the large student's optimizer, and its parameters by name.
        after: the smaller one's.
    """
    (old, large), (new, small) = before, after
    lost: set[str] = set()
    for entry in sorted({name for each in large.values() for name in old.state[each]}):
        states = {key: old.state[each].get(entry) for key, each in large.items()}
        tensors: dict[str, Tensor] = {
            key: value
            for key, value in states.items()
            if isinstance(value, Tensor) and value.ndim and value.shape == large[key].shape
        }
        cut = gather_plan(plan, tensors)
        for key, parameter in small.items():
            value = cut.get(key, states.get(key))
            if isinstance(value, Tensor):
                if value.ndim and value.shape != parameter.shape:
                    lost.add(entry)
                    continue
                value = value.detach().clone()
            if value is not None:
                new.state[parameter][entry] = value
    if lost:
        warnings.warn(
            f"the optimizer's {', '.join(sorted(lost))} cannot be cut to the smaller student and "
            "starts anew",
            stacklevel=2,
        )
