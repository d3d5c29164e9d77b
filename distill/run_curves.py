"""What a run's log says over its steps: losses, temperature, learning rate, validation scores."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distill.report import Curve, Row
from distill.run_log import read_log

# Totals of different objectives are no one quantity; each term is.
_TOTALS = ("loss/total", "loss/grad_norm")
_SCALARS = {"logit_scale": "temperature", "learning_rate": "learning rate"}


def curves(folder: Path, row: Row) -> list[Curve]:
    """Every term's loss, the temperature and the learning rate; scores where several were taken."""
    records = read_log(folder)
    found: dict[str, list[tuple[int, float]]] = {}
    for record in records:
        for series, value in _values(record).items():
            found.setdefault(series, []).append((int(record["step"]), value))
    # The rate is the schedule's business, and last.
    found |= {"learning rate": found.pop("learning rate", [])}
    return [
        Curve(
            name=row.name,
            series=series,
            steps=[step for step, _ in points],
            values=[value for _, value in points],
            role=row.role,
        )
        for series, points in found.items()
        # One evaluation, at the end, is the table's.
        if len(points) > 1 or (points and not series.startswith("held-out") and "/" not in series)
    ]


def _values(record: Mapping[str, Any]) -> dict[str, float]:
    found = {}
    for key, value in record.items():
        if key.startswith("loss/"):
            if key not in _TOTALS:
                found[f"{key.removeprefix('loss/')} loss"] = value
        elif key in _SCALARS:
            found[_SCALARS[key]] = 1 / value if key == "logit_scale" else value
        elif key.rpartition("/")[2] == "top1":
            found[key if "/" in key else f"validation/{key}"] = value
        elif key.rpartition("/")[2] == "contrastive_loss":
            found[f"held-out loss on {key.rpartition('/')[0] or 'validation'}"] = value
    return found
