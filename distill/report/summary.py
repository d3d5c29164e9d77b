"""What the scores say: who is compared with whom, and the result in one sentence.

The reference is the named teacher, or the one with the most image parameters. The twin is the best
undistilled student of the distilled one's size. Every number of the sentence is in the table too.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from distill.report.data import ReportData, Row
from distill.report.wording import count, metric_name, percent, split_name


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The comparison that a report makes.

    Attributes:
        keys: the headline metric of each split, as `unseen_pairs/top1`.
        best: the student with the best mean over `keys`, distilled or not.
        student: the distilled student that the headline speaks of.
        headline: the result; `detail` the sentence below it.
    """

    keys: tuple[str, ...]
    reference: Row | None
    best: Row | None
    student: Row | None
    twin: Row | None
    control: Row | None
    headline: str
    detail: str


def summarise(data: ReportData) -> Summary:
    """Find the rows to compare and word the result."""
    keys = headline_keys(data.rows)
    students = [row for row in data.rows if row.role == "student"]
    best = _best(students, keys)
    distilled = [row for row in students if row.kind == "distilled"]
    named = [row for row in distilled if row.name == data.subject]
    student = _best(named or distilled, keys)
    alike = [row for row in students if student and row.image_params == student.image_params]
    twin = _best([row for row in alike if row.kind == "undistilled"], keys)
    reference = _reference(data, keys)
    control = _best([row for row in alike if row.kind == "control"], keys)
    compared = [("", student), ("its undistilled twin", twin), ("the control", control)]
    return Summary(
        keys=keys,
        reference=reference,
        best=best,
        student=student,
        twin=twin,
        control=control,
        headline=_headline(data.title, student or best or reference, reference, keys),
        detail=_detail(compared, keys),
    )


def headline_keys(rows: Sequence[Row]) -> tuple[str, ...]:
    """The top-1 of each split; without one the first metric there is.

    What every evaluated student has, where there is such a thing: they are compared by it, and a
    teacher may have been asked more.
    """
    every = list(dict.fromkeys(key for row in rows for key in row.metrics))
    students = [row for row in rows if row.role == "student" and row.metrics]
    every = [key for key in every if all(key in row.metrics for row in students)] or every
    top = tuple(key for key in every if key.rpartition("/")[2] == "top1")
    return top or tuple(every[:1])


def kept(row: Row, reference: Row | None, key: str) -> float | None:
    """Retention: as the row states it, otherwise against the reference."""
    if row.retention is not None and key in row.retention:
        share = row.retention[key]
        return None if share is None else float(share)
    if row.role == "teacher" or reference is None or not reference.metrics.get(key):
        return None
    return row.metrics[key] / reference.metrics[key] if key in row.metrics else None


def mean_score(row: Row, keys: Sequence[str]) -> float:
    """Mean over the headline metrics; minus infinity where one is missing or not finite."""
    values = [row.metrics.get(key, math.nan) for key in keys]
    return sum(values) / len(values) if values and all(map(math.isfinite, values)) else -math.inf


def _best(rows: Sequence[Row], keys: Sequence[str]) -> Row | None:
    return max(rows, key=lambda row: mean_score(row, keys), default=None)


def _reference(data: ReportData, keys: Sequence[str]) -> Row | None:
    teachers = [row for row in data.rows if row.role == "teacher"]
    if data.reference:
        return next(row for row in teachers if row.name == data.reference)
    return max(teachers, key=lambda t: (t.image_params, mean_score(t, keys)), default=None)


def _headline(title: str, row: Row | None, reference: Row | None, keys: Sequence[str]) -> str:
    if row is None or not keys:
        return title
    metric = metric_name(keys[0])
    shares = [kept(row, reference, key) for key in keys]
    if reference is None or row is reference or None in shares:
        scores = _listed([percent(row.metrics.get(key)) for key in keys], keys)
        return f"{row.name} reaches {scores} {metric}."
    size = f"A student with {count(row.image_params)} image parameters"
    ratio = reference.image_params / max(1, row.image_params)
    fewer = f", {ratio:.1f}\u00d7\u00a0fewer than {reference.name}," if ratio > 1.05 else ""
    whose = "that teacher's" if fewer else f"{reference.name}'s"
    scores = _listed([percent(share, digits=0) for share in shares], keys, of=f"{whose} {metric}")
    return f"{size}{fewer} keeps {scores}."


def _detail(summary: Sequence[tuple[str, Row | None]], keys: Sequence[str]) -> str:
    """'Distilled it reaches a % on x and b % on y; its undistilled twin c and d %.'"""
    (_, student), *others = summary
    if student is None or not keys:
        return ""
    others = [(name, row) for name, row in others if row is not None]
    scores = _listed([percent(student.metrics.get(key)) for key in keys], keys)
    parts = [f"Distilled it reaches {scores}"] if others else []
    for name, row in others:
        values = [percent(row.metrics.get(key)) for key in keys]
        parts.append(f"{name} {_joined(values)}\u00a0%")
    return "; ".join(parts) + "." if parts else ""


def _listed(values: Sequence[str], keys: Sequence[str], *, of: str = "") -> str:
    """'95 % of X on unseen pairs and 98 % on unseen characters'; without splits '95 % of X'."""
    parts = []
    for value, key in zip(values, keys, strict=True):
        what = f" of {of}" if of and not parts else ""
        where = f" on {split_name(key)}" if split_name(key) else ""
        parts.append(f"{value}\u00a0%{what}{where}")
    return _joined(parts)


def _joined(parts: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(parts[:-1]), parts[-1])))
