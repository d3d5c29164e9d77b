"""Why stored rows are not what their teacher says: hypotheses, each tried on the failing samples.

A hypothesis embeds the samples otherwise, or looks for their rows elsewhere. The first one that
brings four of five of them within the tolerance is the answer: rows of another teacher, rows
shifted, views in another order, another preprocessing, other views, and, last, the same rows
computed less exactly.
"""

from dataclasses import dataclass

import numpy as np

from reinforced_data.auditing.diagnosing_inputs import (
    augmented_otherwise,
    other_texts,
    preprocessed,
)
from reinforced_data.auditing.diagnosing_places import reordered, rounded, shifted, swapped
from reinforced_data.auditing.failing_samples import FailingSamples
from reinforced_data.auditing.files import FileFindings
from reinforced_data.auditing.replaying import Replay
from reinforced_data.auditing.sources import Place
from reinforced_data.store.layout import Store

_ENOUGH = 0.8
_HYPOTHESES = (
    swapped,
    shifted,
    reordered,
    preprocessed,
    augmented_otherwise,
    other_texts,
    rounded,
)


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """What explains the failing samples.

    Attributes:
        cause: a slug: swapped, shifted, reordered, preprocessing, augmentation, rounding or
            unexplained.
        text: for people.
    """

    cause: str
    text: str


def diagnose(
    store: Store, found: FileFindings, replay: Replay, images: dict[Place, bytes]
) -> Diagnosis:
    """Name what explains the samples of a replay that are beyond its tolerance."""
    case = FailingSamples(store, found, replay, images)
    for hypothesis in _HYPOTHESES:
        for candidate in hypothesis(case):
            if np.mean(candidate.errors <= replay.tolerance) >= _ENOUGH:
                return Diagnosis(cause=candidate.cause, text=candidate.text)
    return Diagnosis(cause="unexplained", text="nothing that an audit knows explains it")
