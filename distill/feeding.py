"""What a run's configuration asks of its store: teachers and batches."""

from collections.abc import Sequence

from torch.utils.data import DataLoader

from distill.config import RunConfig
from reinforced_data import Batch, ReinforcedDataset
from reinforced_data.reading.reader import StoredTeacher
from students import Student


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
) -> DataLoader[Batch]:
    """One process's batches of the steps after `first` up to `last`."""
    return dataset.loader(
        preprocess=student.preprocess,
        tokenizer=student.tokenizer,
        batch_size=config.data.batch_size,
        num_steps=last,
        start_step=first,
        seed=config.seed,
        teachers=teacher_names(config),
        views=config.data.views,
        captions=config.data.captions,
        score_weights=config.data.score_weights,
        window_shards=config.data.window_shards,
        num_workers=config.data.num_workers,
        rank=rank,
        world_size=world_size,
    )
