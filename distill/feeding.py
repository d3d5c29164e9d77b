"""What a run's configuration asks of its store: teachers and batches.

A batch carries the objective's teachers, and after them those whose rows stand for a locked
encoder.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from distill.config import RunConfig
from distill.locked_students import locked_teachers
from distill.locking import LockedRows
from distill.losses.adapters import Width
from distill.token_phases import attention_wanted, phase_by_phase, phases
from reinforced_data import Batch, ReinforcedDataset
from reinforced_data.reading.reader import StoredTeacher
from students import Student
from teachers.contract import Tokenizer


def stored_teachers(dataset: ReinforcedDataset, config: RunConfig) -> list[StoredTeacher]:
    """The objective's teachers: none when no term reads them, all when none are named."""
    names = config.data.teachers if config.objective.needs_teachers else ()
    known = {teacher.name: teacher for teacher in dataset.teachers}
    return list(known.values()) if names is None else [known[n] for n in names if n in known]


def teacher_dims(dataset: ReinforcedDataset, config: RunConfig) -> Sequence[Width]:
    """Their widths."""
    widths = [teacher.widths for teacher in stored_teachers(dataset, config)]
    return [image if image == text else (image, text) for image, text in widths]


def numbered_samples(dataset: ReinforcedDataset, config: RunConfig) -> int:
    """How many samples the objective remembers; 0 where none."""
    return dataset.num_rows if config.objective.fastclip else 0


def carried_names(dataset: ReinforcedDataset, config: RunConfig) -> list[str]:
    """Whose rows batches carry, in order."""
    if not config.objective.needs_teachers:
        names = []
    elif config.data.teachers is None:
        names = [teacher.name for teacher in dataset.teachers]
    else:
        names = list(config.data.teachers)  # the loader refuses unknown ones
    return list(dict.fromkeys([*names, *_locked_names(dataset, config).values()]))


def locked_rows(dataset: ReinforcedDataset, config: RunConfig) -> LockedRows:
    """Where in a batch the rows of encoders are that are not there."""
    names = carried_names(dataset, config)
    locked = _locked_names(dataset, config)
    return LockedRows(**{side: names.index(name) for side, name in locked.items()})


def _locked_names(dataset: ReinforcedDataset, config: RunConfig) -> dict[str, str]:
    """By side, the name in the store of the teacher that stands for its encoder."""
    return {side: teacher.name for side, teacher in locked_teachers(dataset, config).items()}


def batches(
    dataset: ReinforcedDataset,
    student: Student,
    config: RunConfig,
    *,
    first: int,
    last: int,
    rank: int = 0,
    world_size: int = 1,
) -> Iterable[Batch]:
    """One process's batches of the steps after `first` up to `last`."""
    stored, teachers = config.lock.sides, carried_names(dataset, config)

    def load(tokenizer: Tokenizer, after: int, to: int) -> Iterable[Batch]:
        return dataset.loader(
            preprocess=None if "image" in stored else student.preprocess,
            tokenizer=None if "text" in stored else tokenizer,
            batch_size=config.data.batch_size,
            num_steps=min(to, last),
            start_step=after,
            seed=config.seed,
            teachers=teachers,
            views=config.data.views,
            captions=config.data.captions,
            score_weights=config.data.score_weights,
            window_shards=config.data.window_shards,
            num_workers=config.data.num_workers,
            rank=rank,
            world_size=world_size,
            attention=attention_wanted(config),
        )

    return phase_by_phase(config, student.tokenizer, first, load)


def check_one_reading(
    dataset: ReinforcedDataset, students: Sequence[Student], configs: Sequence[RunConfig]
) -> None:
    """Refuse runs that do not read the same batches, bit for bit.

    Raises:
        ValueError: names every setting that differs, with the first run's value and the other's.
    """
    pairs = zip(students, configs, strict=True)
    first, *others = [_reading(dataset, student, config) for student, config in pairs]
    for config, other in zip(configs[1:], others, strict=True):
        wrong = [
            f"{n}: {value!r} and {other[n]!r}" for n, value in first.items() if value != other[n]
        ]
        if wrong:
            raise ValueError(
                f"{config.out or config.student.name} cannot share a pass over the store with "
                f"{configs[0].out or configs[0].student.name}: they do not read the same "
                f"({'; '.join(wrong)}). Give them the same values, or train them one by one"
            )


def configured_reading(config: RunConfig) -> dict[str, Any]:
    """What the batches of a run are a function of, as far as its configuration tells."""
    data = config.data
    names = ("batch_size", "views", "captions", "score_weights", "window_shards")
    syntax = [(p.text_length, last) for p, last in phases(config) if p.text == "syntax"]
    return {
        **{f"data.{name}": getattr(data, name) for name in names},
        "data.view_set": data.view_set,
        "schedule.num_steps": config.schedule.num_steps,
        "seed": config.seed,
        "precision": config.precision,
        "the locked sides": config.lock.sides,
        "attention": attention_wanted(config),
        "syntax phases": syntax,
    }


def _reading(dataset: ReinforcedDataset, student: Student, config: RunConfig) -> dict[str, Any]:
    """Everything that the batches of a run are a function of, and what all runs share."""
    return {
        **configured_reading(config),
        "the stored teachers read": carried_names(dataset, config),
        "image_size": student.preprocess.image_size,
        "interpolation": student.preprocess.interpolation,
        "tokenizer": student.tokenizer.config(),
    }
