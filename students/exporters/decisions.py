"""Does the shipped file decide as the model does? Best texts, and the order of all texts.

A relative error says how far rows move, not whether anything changes for an app. Here every picture
ranks the candidates, by the model's rows and by the file's. Only decisions that the model makes
clearly count: where its margin exceeds ten times the median error of the file's scores. No file is
excused by an error of its own beyond that: half a standard deviation of a picture's scores is
always clear. A tie in the file is a wrong decision.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

# A margin is clear above so many errors, or so many standard deviations of a picture's scores.
_ERRORS, _DEVIATIONS = 10, 0.5
# The share of clear decisions that a file has to make as the model does.
LEAST_SHARE = 0.99


class Agreement(NamedTuple):
    """How many clear decisions there were, and the share that is the same; None of none."""

    decided: int
    share: float | None

    @property
    def fails(self) -> bool:
        """Whether the file decides otherwise; without a clear decision nothing is said."""
        return self.share is not None and self.share < LEAST_SHARE


def best_alike(model: Float[Tensor, "n c"], file: Float[Tensor, "n c"]) -> Agreement:
    """Compare the best candidate of each row.

    Args:
        model: scores of candidates, by the model.
        file: the same by the shipped files.
    """
    if model.shape[1] < 2:
        return Agreement(0, None)
    (first, second), best = model.topk(2).values.unbind(1), model.argmax(1, keepdim=True)
    clear = first - second > _margin(model, file)
    others = file.scatter(1, best, -torch.inf).amax(1)
    return _agreement(file.gather(1, best)[:, 0] > others, clear)


def order_alike(model: Float[Tensor, "n c"], file: Float[Tensor, "n c"]) -> Agreement:
    """Compare the order of every two candidates of each row; arguments as in `best_alike`."""
    first, second = torch.triu_indices(model.shape[1], model.shape[1], offset=1)
    ahead, shipped = model[:, first] - model[:, second], file[:, first] - file[:, second]
    return _agreement(ahead * shipped > 0, ahead.abs() > _margin(model, file))


def _margin(model: Tensor, file: Tensor) -> float:
    """How far apart scores have to be to count."""
    error = (file - model).double().abs().median().item()  # one bad row excuses nothing
    return min(_ERRORS * error, _DEVIATIONS * model.double().std(dim=1).mean().item())


def _agreement(same: Tensor, clear: Tensor) -> Agreement:
    decided = int(clear.sum())
    return Agreement(decided, same[clear].double().mean().item() if decided else None)
