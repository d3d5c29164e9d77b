"""Students that learn against a locked teacher's stored rows, and get its encoder at the end.

Which teacher that is must be in the store and be the same when it is loaded: names say which, and
fingerprints that it is.
"""

import copy
from collections.abc import Sequence

import torch

from distill.config import RunConfig
from distill.model_loading import load_model, name_of
from reinforced_data import ReinforcedDataset
from reinforced_data.reading.reader import StoredTeacher
from students import Student
from students.composing import TOWERS, PartialStudent, StoredSide, partial_student
from students.student import TowerName
from teachers import ClipModel
from teachers.suggestions import unknown_name
from teachers.teacher import fingerprint


def without_locked_encoders(
    student: Student | None,
    dataset: ReinforcedDataset,
    config: RunConfig,
    teachers: Sequence[ClipModel] = (),
) -> PartialStudent:
    """Take the encoders that `config.lock` reads from the store out of a student.

    Args:
        student: gives the side that is not stored, and is taken over; None where both are.
        dataset: the store.
        config: the run.
        teachers: where an encoder is found by name at the end, before it is loaded by its name.

    Raises:
        ValueError: the store lacks the teacher or its rows, there is no such teacher, or widths
            do not fit.
    """
    given = {teacher.name: teacher for teacher in teachers}
    lock, stored = config.lock, locked_teachers(dataset, config)
    sides: dict[TowerName, StoredSide] = {
        tower: StoredSide(width=teacher.embed_dim, head=getattr(lock, f"{tower}_head"))
        for tower, teacher in stored.items()
    }
    torch.manual_seed(config.seed)  # for the heads
    partial = partial_student(
        sides,
        student=student,
        embed_dim=lock.embed_dim,
        kind=config.student.kind,
        name=student.name if student else config.student.name,
    )

    def load(tower: TowerName) -> ClipModel:
        spec, wanted = lock.sides[tower], stored[tower]
        own = given.get(wanted.name)
        model = load_model(spec) if own is None else copy.deepcopy(own)
        check_is(model, wanted, spec)
        # No run of this student trains it, and who goes on from the whole one may.
        for parameter in model.parameters():
            parameter.requires_grad_(parameter.is_floating_point())
        return model

    partial.load_encoder = load
    return partial


def locked_teachers(
    dataset: ReinforcedDataset, config: RunConfig
) -> dict[TowerName, StoredTeacher]:
    """The teachers whose rows stand for encoders, by side; raises as `without_locked_encoders`."""
    known = {stored.name: stored for stored in dataset.teachers}
    found: dict[TowerName, StoredTeacher] = {}
    for tower in TOWERS:
        spec = config.lock.sides.get(tower)
        if spec is None:
            continue
        where = f"lock.stored_{tower}={spec!r}: {dataset.path}"
        name = spec if spec in known else name_of(spec)
        if name not in known:
            raise ValueError(f"{where}: {unknown_name('teacher', name, known)}")
        if not known[name].widths[TOWERS.index(tower)]:
            raise ValueError(f"{where} has no {tower} rows of this teacher")
        found[tower] = known[name]
    return found


def locked_width(dataset: ReinforcedDataset, config: RunConfig) -> int | None:
    """How wide the student's embeddings must be to be held against stored rows without a head."""
    for tower, teacher in locked_teachers(dataset, config).items():
        if getattr(config.lock, f"{tower}_head") == "none":
            return teacher.embed_dim
    return None


def check_is(model: ClipModel, stored: StoredTeacher, spec: str) -> None:
    """Raise a `ValueError` when a model is not the one that wrote a teacher's rows."""
    found = getattr(model, "fingerprint", "")
    if found != stored.fingerprint:
        found = fingerprint(
            model.module,
            precision=stored.precision,
            preprocess=model.preprocess,
            tokenizer=model.tokenizer,
        )
    if found != stored.fingerprint:
        raise ValueError(
            f"{spec} is not the teacher whose rows the student has learned against: its "
            f"fingerprint is {found[:12]}, the store's {stored.fingerprint[:12]} (weights, "
            "preprocessing or tokenizer differ). The training is kept: give the command again "
            "when the right one is there"
        )
