"""What `distill evaluate --out` left behind: more scores of a report's rows, or rows of their own.

A file belongs to the run or teacher whose folder it names; any other model, as a published teacher,
gets a row. What the file holds beside the keys that are read here is left alone.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distill.report import Beyond, Row
from distill.run_exports import read_object

# A split's own scores: what `evaluate` gives without --tests, but for counts and losses.
_PLAIN = re.compile(r"top\d+|(image_to_text|text_to_image)_r\d+")
_TESTS = re.compile(
    r"ece|confidence|agreement|kept_right|probe_top1|typographic/(top1|fooled)"
    r"|corrupted/([^/]+/)?top1|(resolution|size)/\d+/top1"
)


@dataclass(kw_only=True)
class Evaluated:
    """What all files of one model say; of a score that two files have, the later one counts.

    Attributes:
        name: of its row.
        on_page: whether the row is a run's that the report shows anyway.
        metrics: plain scores, as `Row.metrics`.
        tests: split -> test -> score.
        leaks: split -> (pictures that are in the training shards, more that nearly are).
        image_params, text_params: 0 where no file says.
    """

    name: str
    on_page: bool
    metrics: dict[str, float] = field(default_factory=dict)
    tests: dict[str, dict[str, float]] = field(default_factory=dict)
    leaks: dict[str, tuple[int, int]] = field(default_factory=dict)
    image_params: int = 0
    text_params: int = 0

    def row(self) -> Row:
        """A teacher's row: nothing here trained it."""
        return Row(
            name=self.name,
            role="teacher",
            image_params=self.image_params,
            text_params=self.text_params,
            steps=0,
            metrics=self.metrics,
        )

    def beyond(self, metrics: Mapping[str, Any]) -> Iterator[Beyond]:
        """Tests by split, beside the row's own top-1 in `metrics`."""
        for split in dict.fromkeys((*self.tests, *self.leaks)):
            top1 = metrics.get(f"{split}/top1" if split else "top1")
            plain = {} if top1 is None else {"top1": top1}
            leaks, near = self.leaks.get(split, (None, None))
            scores = plain | self.tests.get(split, {})
            yield Beyond(name=self.name, split=split, scores=scores, leaks=leaks, near_leaks=near)


def read_evaluations(paths: Sequence[Path], names: Mapping[Path, str]) -> list[Evaluated]:
    """Read files and find whose they are.

    Args:
        paths: what `distill evaluate --out` wrote.
        names: folder of a run on the page -> name of its row.

    Raises:
        ValueError: a file is no evaluation.
    """
    runs = {folder.resolve(): name for folder, name in names.items()}
    models: dict[Path | str, Evaluated] = {}
    for path in paths:
        found = _read(path)
        model = found["model"]
        key = Path(model).resolve() if Path(model).is_dir() else model
        if key not in models:
            taken = {*runs.values(), *(each.name for each in models.values())}
            short = key.name if isinstance(key, Path) else key
            own = str(key) if short in taken else short
            name = runs.get(key, own) if isinstance(key, Path) else own
            models[key] = Evaluated(name=name, on_page=key in runs)
        _add(models[key], found)
    return list(models.values())


def more_scores(own: Mapping[str, Any], said: Evaluated | None) -> dict[str, Any]:
    """A run's scores and those of the files about it; what both have is the run's."""
    return {**(said.metrics if said else {}), **own}


def _add(to: Evaluated, found: Mapping[str, Any]) -> None:
    metrics = found["metrics"]
    # `evaluate` counts the samples of each split, which tells splits from tests: both have slashes.
    splits = [key.rpartition("/")[0] for key in metrics if key.rpartition("/")[2] == "samples"]
    for key, value in metrics.items():
        split = max((s for s in splits if key.startswith(f"{s}/")), key=len, default="")
        name = key.removeprefix(f"{split}/") if split else key
        if split not in splits or not isinstance(value, int | float):
            continue
        if _PLAIN.fullmatch(name):
            to.metrics[key] = value
        elif _TESTS.fullmatch(name):
            to.tests.setdefault(split, {})[name] = value
    to.leaks |= found["leaks"]
    to.image_params = int(found.get("image_params") or to.image_params)
    to.text_params = int(found.get("text_params") or to.text_params)


def _read(path: Path) -> dict[str, Any]:
    how = f"write one with `distill evaluate MODEL --on SHARDS --out {path}`"
    found = read_object(path, how)
    metrics = found.get("metrics")
    if not isinstance(found.get("model"), str) or not isinstance(metrics, dict):
        raise ValueError(f"{path} is no evaluation: it names no model with metrics; {how}")
    if not any(key.rpartition("/")[2] == "samples" for key in metrics):
        raise ValueError(
            f"{path} is no evaluation: its metrics do not say of how many samples; {how}"
        )
    try:
        audits = (found.get("audit") or {}).items()
        # Without --leaks-from an audit names classes that are alike, and no more.
        leaks = {split: _leaks(audit["leaks"]) for split, audit in audits if "leaks" in audit}
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"{path} has an audit of another kind ({error!r}); {how}") from error
    return found | {"leaks": leaks}


def _leaks(listed: Sequence[Mapping[str, Any]]) -> tuple[int, int]:
    """Count those whose bytes are equal, and the others."""
    equal = sum(bool(leak["same_bytes"]) for leak in listed)
    return equal, len(listed) - equal
