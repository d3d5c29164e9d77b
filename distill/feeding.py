"""What a run's configuration asks of its store: teachers and batches."""

from collections.abc import Iterable, Sequence

from distill.config import RunConfig
from distill.token_phases import attention_wanted, phase_by_phase
from reinforced_data import Batch, ReinforcedDataset
from reinforced_data.reading.reader import StoredTeacher
from students import Student
from teachers.contract import Tokenizer


def teacher_names(config: RunConfig) -> tuple[str, ...] | None:
    """Whose rows batches carry: none when no term reads them, all when None."""
    return config.data.teachers if config.objective.needs_teachers else ()


def stored_teachers(dataset: ReinforcedDataset, config: RunConfig) -> list[StoredTeacher]:
    """Those teachers, in the order in which batches carry them."""
    names = teacher_names(config)
    known = {teacher.name: teacher for teacher in dataset.teachers}
    return list(known.values()) if names is None else [known[n] for n in names if n in known]


def teacher_dims(dataset: ReinforcedDataset, config: RunConfig) -> Sequence[int]:
    """Their widths."""
    return [teacher.embed_dim for teacher in stored_teachers(dataset, config)]


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

    def load(tokenizer: Tokenizer, after: int, to: int) -> Iterable[Batch]:
        return dataset.loader(
            preprocess=student.preprocess,
            tokenizer=tokenizer,
            batch_size=config.data.batch_size,
            num_steps=min(to, last),
            start_step=after,
            seed=config.seed,
            teachers=teacher_names(config),
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
