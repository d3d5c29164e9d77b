"""Does a model know how sure it may be: the expected calibration error of zero-shot classes.

Guo et al. 2017, arXiv:1706.04599, eq. 3, 15 bins. Probabilities are the softmax over the classes of
similarity times the model's own scale, also for a student of the sigmoid loss, whose bias is the
same for every class and cancels.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from distill.evaluation.label_checks import label_places

_BINS = 15


def expected_calibration_error(
    probabilities: Float[Tensor, "n c"], targets: Int64[Tensor, " n"]
) -> float:
    """Return the mean distance of confidence and accuracy over bins of equal width, by their size.

    Args:
        probabilities: rows that sum to 1.
        targets: the right class of each.
    """
    confidence, chosen = probabilities.double().max(1)
    right = (chosen == targets).double()
    # A bin is open below and closed above; 0 itself cannot be the greatest of a row.
    place = (confidence * _BINS).ceil().long().clamp(1, _BINS) - 1
    gap = torch.zeros(_BINS, dtype=torch.float64, device=right.device)
    gap.index_add_(0, place, confidence - right)
    return float(gap.abs().sum() / len(targets))


def calibration(
    images: Float[Tensor, "n d"],
    labels: Sequence[str],
    class_names: Sequence[str],
    class_rows: Float[Tensor, "c d"],
    scale: float,
) -> dict[str, float]:
    """Return `ece` and the mean `confidence` in the class that is chosen; both fractions.

    Raises:
        ValueError: a label is no class.

    Args:
        images: unit rows.
        labels: of each; all are class names.
        class_names: one a row of `class_rows`.
        class_rows: unit rows.
        scale: what similarities are multiplied with, not its logarithm.
    """
    targets = torch.tensor(label_places(labels, class_names), device=images.device)
    probabilities = (scale * images.double() @ class_rows.double().T).softmax(1)
    return {
        "ece": expected_calibration_error(probabilities, targets),
        "confidence": float(probabilities.amax(1).mean()),
    }
