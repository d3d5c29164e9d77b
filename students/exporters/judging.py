"""The verdict on a format's files together: are its decisions and its metric the model's?

`parity` judges each file by how far its rows are from the model's. Here the picture file and the
text file are used together, as an app does, on the samples (see `decisions`); and where a metric is
given, it is measured on the files as on the model, and may fall by so much.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TypedDict

import torch
from torch import Tensor

from students.exporters.decisions import LEAST_SHARE, Agreement, best_alike, order_alike
from students.exporters.formats import Variant
from students.exporters.parity import ParityError, Reference, Runner
from students.exporters.running import files_as_model
from students.student import Student
from teachers.clip_model import ClipModel

Metric = Callable[[ClipModel], float]
"""From a model (or files behind the same face: `encode_image`, `encode_text`) to a number."""


class Verdict(TypedDict):
    """What a format's files in one precision decide; shares are None where nothing was clear.

    `top1` compares the best class (of `zero_shot`, or else the best of the samples' texts) and
    `order` every two texts of every picture. The metrics are None where none was asked for.
    """

    format: str
    quantize: str
    top1_decided: int
    top1_alike: float | None
    order_decided: int
    order_alike: float | None
    metric_name: str | None
    metric: float | None
    metric_of_model: float | None


@dataclass(frozen=True)
class Judge:
    """Compares files with their model.

    Attributes:
        student: the model, as trained.
        reference: what it says of the samples.
        metric: what else it is measured by; higher is better.
        max_loss: what a file's metric may be below the model's.
    """

    student: Student
    reference: Reference
    metric: Metric | None
    max_loss: float

    @cached_property
    def metric_of_model(self) -> float | None:
        """The model's own metric, measured once."""
        if self.metric is None:
            return None
        with torch.no_grad():
            return float(self.metric(self.reference.eager))

    def verdict(
        self,
        variant: Variant,
        shipped: Mapping[str, Tensor],
        runs: Mapping[str, Runner],
    ) -> Verdict:
        """Judge the files of one variant by the rows they gave for the samples.

        Raises:
            ParityError: they decide otherwise, or their metric is lower than it may be.
        """
        top1, order = self._agreements(shipped)
        for what, found in (("best class or text", top1), ("order of texts", order)):
            if found.fails:
                raise ParityError(
                    f"the {variant} files decide otherwise than the model: of {found.decided} "
                    f"clear decisions about the {what} {found.share:.1%} are the same, "
                    f"{LEAST_SHARE:.0%} have to be"
                )
        return {
            "format": variant.format,
            "quantize": variant.quantize,
            "top1_decided": top1.decided,
            "top1_alike": top1.share,
            "order_decided": order.decided,
            "order_alike": order.share,
            "metric_name": None if self.metric is None else metric_name(self.metric),
            "metric": self._metric(variant, runs),
            "metric_of_model": self.metric_of_model,
        }

    def _agreements(self, shipped: Mapping[str, Tensor]) -> tuple[Agreement, Agreement]:
        rows = self.reference.rows
        places = _first_places(self.reference.texts)
        truth = rows["image"] @ rows["text"][places].T
        given = shipped["image"] @ shipped["text"][places].T
        order = order_alike(truth, given)
        if "zero_shot" in rows:
            truth, given = rows["zero_shot"], shipped["zero_shot"]
        return best_alike(truth, given), order

    def _metric(self, variant: Variant, runs: Mapping[str, Runner]) -> float | None:
        """Measure the files, and compare."""
        model = self.metric_of_model
        if self.metric is None or model is None:
            return None
        inside = self.reference.inside
        files = files_as_model(self.student, runs["image"], runs["text"], inside=inside)
        with torch.no_grad():
            found = float(self.metric(files))
        if not model - found <= self.max_loss:
            raise ParityError(
                f"the {variant} files lose {model - found:.4f} of {metric_name(self.metric)} "
                f"({found:.4f}, the model {model:.4f}), more than max_metric_loss "
                f"{self.max_loss:g}: a lower tolerance keeps more layers float, and more "
                "calibration pictures set better ranges"
            )
        return found


def metric_name(metric: Metric) -> str:
    """Return what a metric's function is called."""
    return getattr(metric, "__name__", type(metric).__name__)


def _first_places(texts: list[str]) -> list[int]:
    """Where each text stands first: equal texts would be ties."""
    return [place for place, text in enumerate(texts) if texts.index(text) == place]
