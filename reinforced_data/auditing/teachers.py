"""The part of an audit that holds live teachers against their columns, and says what is wrong."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from reinforced_data.auditing.diagnosing import Diagnosis, diagnose
from reinforced_data.auditing.files import ColumnFindings, FileFindings
from reinforced_data.auditing.findings import Finding
from reinforced_data.auditing.replaying import Replay, cosines, replay
from reinforced_data.auditing.sources import Pictures, Place
from reinforced_data.store.layout import Store
from teachers import ClipModel


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """A live teacher against its stored rows.

    Attributes:
        teacher: its name.
        samples: how many rows were embedded again.
        minimum: the lowest cosine.
        mean: the mean cosine.
        error: the largest distance, in units of the distance between two samples.
        tolerance: how large it may be: what the codec loses, and rounding.
        below: how many rows are beyond it.
        cause: what explains these, "" without any; see diagnosing.py.
    """

    teacher: str
    samples: int
    minimum: float
    mean: float
    error: float
    tolerance: float
    below: int
    cause: str = ""


@dataclass(kw_only=True)
class TeacherFindings:
    """What live teachers say.

    Attributes:
        agreements: by column.
        moved: how far the embeddings of changed pictures have moved.
        notes: what is good to know and no problem.
    """

    agreements: dict[str, Agreement] = field(default_factory=dict)
    moved: dict[Place, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def ask_teachers(
    store: Store,
    found: FileFindings,
    teachers: Sequence[ClipModel],
    pictures: Pictures,
    *,
    max_error: float,
    between: Callable[[str], None],
) -> TeacherFindings:
    """Embed the sampled pictures and their captions again with each teacher.

    Args:
        store: the store.
        found: its columns; what is wrong is added.
        teachers: live ones, matched by fingerprint, and else by name.
        pictures: of the samples.
        max_error: see `replay`.
        between: called before each column is embedded.

    Raises:
        ValueError: one of these is no teacher.
    """
    said = TeacherFindings()
    stored = [*found.of_kind("image_embeddings"), *found.of_kind("text_embeddings")]
    for teacher in teachers:
        fingerprint = _fingerprint(teacher)
        own = [e for e in stored if e.column.identity["teacher_fingerprint"] == fingerprint]
        for entry in own:
            between(f"{teacher.name}: {entry.column.name}")
            _check(store, found, teacher, entry, pictures, said, max_error)
        if not own:
            between(teacher.name)
            _check_namesake(store, found, teacher, stored, pictures, said, max_error)
    return said


def _fingerprint(teacher: ClipModel) -> str:
    fingerprint = getattr(teacher, "fingerprint", None)
    if fingerprint is None:
        raise ValueError(
            f"{teacher.name} is a {type(teacher).__name__} without a fingerprint; teachers "
            "come from load_teacher(...), which also takes a ready module"
        )
    return fingerprint


def replay_column(
    store: Store,
    found: FileFindings,
    teacher: ClipModel,
    entry: ColumnFindings,
    images: dict[Place, bytes],
    max_error: float,
) -> Replay | None:
    """Replay what can be relied on of these samples; None when that is nothing."""
    parent = found.named(entry.column.identity["hangs_on"])
    if parent is None:
        return None
    sound = entry.sound & parent.sound
    chosen = {place: data for place, data in images.items() if place[0] in sound}
    return replay(store, teacher, entry, parent.column, chosen, max_error=max_error)


def _check(
    store: Store,
    found: FileFindings,
    teacher: ClipModel,
    entry: ColumnFindings,
    pictures: Pictures,
    said: TeacherFindings,
    max_error: float,
) -> None:
    """One column of this very teacher."""
    if entry.column.kind == "image_embeddings":
        now = {place: picture.now for place, picture in pictures.changed.items() if picture.now}
        moved = replay_column(store, found, teacher, entry, now, max_error)
        if moved is not None:
            said.moved |= dict(zip(moved.places, moved.errors.tolist(), strict=True))
    rows = replay_column(store, found, teacher, entry, pictures.same, max_error)
    if rows is None:
        return
    diagnosis = None
    if (rows.errors > rows.tolerance).any():
        diagnosis = diagnose(store, found, rows, pictures.same)
        found.findings.append(_wrong_rows(store, rows, diagnosis))
    said.agreements[entry.column.name] = _agreement(rows, diagnosis)


def _wrong_rows(store: Store, rows: Replay, diagnosis: Diagnosis) -> Finding:
    failing = np.flatnonzero(rows.errors > rows.tolerance)
    shards = sorted({rows.places[i][0] for i in failing})
    worst = int(rows.errors.argmax())
    shard, row = rows.places[worst]
    some = ", ".join(map(str, shards[:5])) + (", ..." if len(shards) > 5 else "")
    text = (
        f"column {rows.entry.column.name}: {len(failing)} of {len(rows.errors)} rows that "
        f"{rows.teacher.name} embedded again are not what is stored (shards {some}); the worst, "
        f"shard {shard}, row {row}, is {rows.errors[worst]:.2f} of the distance between two "
        f"samples away, {rows.tolerance:.2f} may be. Cause: {diagnosis.text}. `distill audit "
        f"{store.name} --repair --teachers ...` writes such shards anew"
    )
    return Finding(
        kind="wrong-rows",
        text=text,
        column=rows.entry.column.name,
        shards=tuple(shards),
        cause=diagnosis.cause,
    )


def _agreement(rows: Replay, diagnosis: Diagnosis | None) -> Agreement:
    values = cosines(rows)
    return Agreement(
        teacher=rows.teacher.name,
        samples=len(values),
        minimum=float(values.min()),
        mean=float(values.mean()),
        error=float(rows.errors.max()),
        tolerance=rows.tolerance,
        below=int((rows.errors > rows.tolerance).sum()),
        cause=diagnosis.cause if diagnosis else "",
    )


def _check_namesake(
    store: Store,
    found: FileFindings,
    teacher: ClipModel,
    stored: Sequence[ColumnFindings],
    pictures: Pictures,
    said: TeacherFindings,
    max_error: float,
) -> None:
    """A teacher with another fingerprint: of another precision, another look, or other weights?"""
    named = [
        entry
        for entry in stored
        if entry.column.identity["teacher"] == teacher.name
        and entry.column.facts.get("teacher", {}).get("embed_dim") == teacher.embed_dim
    ]
    causes = dict[str, str]()
    for entry in named:
        rows = replay_column(store, found, teacher, entry, pictures.same, max_error)
        if rows is None:
            continue
        if (rows.errors <= rows.tolerance).all():
            causes.setdefault("rounding", "the rows agree")
            said.agreements[entry.column.name] = _agreement(rows, None)
        else:
            diagnosis = diagnose(store, found, rows, pictures.same)
            causes[diagnosis.cause] = diagnosis.text
    differs = _differences(named[0], teacher) if named else ""
    if set(causes) == {"rounding"}:
        said.notes.append(
            f"{teacher.name} is not, to the bit, the teacher that wrote its columns{differs}, but "
            f"{causes['rounding']}: rounding, which is as it should be"
        )
        return
    known = [text for cause, text in causes.items() if cause not in ("rounding", "unexplained")]
    writers = {
        f"{e.column.identity['teacher']} ({e.column.identity['teacher_fingerprint'][:12]})"
        for e in stored
    }
    text = (
        f"the teacher {teacher.name} ({_fingerprint(teacher)[:12]}) has written nothing in this "
        f"store; its teachers are {', '.join(sorted(writers)) or 'none'}. Weights, precision, "
        f"preprocessing and tokenizer must be those of then{differs}"
        f"{'. Cause: ' + '; '.join(known) if known else ''}"
    )
    cause = next((c for c in causes if c not in ("rounding", "unexplained")), "unexplained")
    found.findings.append(Finding(kind="other-teacher", text=text, cause=cause))


def _differences(entry: ColumnFindings, teacher: ClipModel) -> str:
    """What the column records of its teacher and this one has otherwise."""
    then = entry.column.facts.get("teacher", {})
    now = {
        "precision": getattr(teacher, "precision", "fp32"),
        "preprocess": teacher.preprocess.config(),
        "context_length": teacher.tokenizer.context_length,
    }
    flat_then = {**then, **then.get("preprocess", {})}
    flat_now = {**now, **teacher.preprocess.config()}
    changed = [
        f"{name} was {flat_then[name]}, is {_plain(value)}"
        for name, value in flat_now.items()
        if name != "preprocess" and name in flat_then and flat_then[name] != _plain(value)
    ]
    return f" ({'; '.join(changed)})" if changed else ""


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value
