"""Means of students that a merge has looked at: built, measured on held-out data, remembered."""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from distill.averaging import average, has_running_statistics, measure_statistics
from distill.run_log import write_json
from students import Student

_METRICS = ("top1", "text_to_image_r1")
_FILE = "merge-tried.json"

Weights = tuple[float, ...]


class Trials:
    """Scores of weighted means, each measured once.

    Args:
        students: of the same shapes.
        measure: student and shards to metrics.
        validation: what to measure on.
        statistics_on: what to measure BatchNorm statistics on.
        limit: on so many samples.
        metric: what `score` returns; None takes the first of top1, text_to_image_r1.
        on_tried: called with each new row.
    """

    def __init__(
        self,
        *,
        students: Sequence[Student],
        measure: Callable[[Student, str], dict[str, float]],
        validation: str,
        statistics_on: str | None,
        limit: int,
        metric: str | None,
        on_tried: Callable[[dict[str, Any]], None] | None,
    ) -> None:
        """Nothing tried yet."""
        self.students, self.measure, self.validation = students, measure, validation
        self.statistics_on, self.limit, self.metric = statistics_on, limit, metric
        self.tried: list[dict[str, Any]] = []
        self._known: dict[str, dict[str, float]] = {}
        self._on_tried, self._path, self._inputs = on_tried, Path(), ""

    def remember_in(self, folder: Path, inputs: Sequence[Any]) -> None:
        """Keep scores in a folder, and take those of the same inputs and weights from there."""
        digest = hashlib.sha256(json.dumps(list(inputs)).encode())
        for student in self.students:
            for value in student.module.state_dict().values():
                digest.update(value.cpu().contiguous().flatten().view(-1).numpy().tobytes())
        folder.mkdir(parents=True, exist_ok=True)
        self._path, self._inputs = folder / _FILE, digest.hexdigest()
        if self._path.is_file():
            before = json.loads(self._path.read_text())
            self._known = before["tried"] if before["inputs"] == self._inputs else {}

    def build(self, weights: Weights) -> Student:
        """The mean; one student alone stays as it is, statistics too."""
        merged = average(self.students, weights)
        if self.statistics_on and max(weights) < 1 and has_running_statistics(merged):
            measure_statistics(merged, self.statistics_on, self.limit)
        return merged

    def score(self, weights: Weights) -> float:
        """The metric of a mean on the validation data.

        Raises:
            ValueError: the metric is not among what was measured.
        """
        for row in self.tried:
            if row["weights"] == weights:
                return self._value(row["metrics"])
        key = json.dumps(weights)
        if key not in self._known:
            self._known[key] = self.measure(self.build(weights), self.validation)
            if self._inputs:
                write_json(self._path, {"inputs": self._inputs, "tried": self._known})
        row = {"weights": weights, "metrics": self._known[key]}
        self.tried.append(row)
        value = self._value(row["metrics"])
        if self._on_tried is not None:
            self._on_tried(row)
        return value

    def _value(self, metrics: dict[str, float]) -> float:
        self.metric = self.metric or next(name for name in _METRICS if name in metrics)
        if self.metric not in metrics:
            raise ValueError(
                f"metric={self.metric!r} is not measured on {self.validation}; there are: "
                f"{', '.join(metrics)}"
            )
        return metrics[self.metric]
