"""What the columns hold of one step, and what a run wants of them."""

from dataclasses import dataclass

import numpy as np

from reinforced_data.reading.spare_arrays import SpareArrays
from reinforced_data.reading.step_texts import CaptionShares, StepTexts, empty_rows
from reinforced_data.reading.stored_teachers import StoredTeacher
from reinforced_data.scores.weights import ScoreWeights
from reinforced_data.store.columns import Column
from teachers import Preprocess, Tokenizer


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How a student wants its batches; see `ReinforcedDataset.loader`."""

    preprocess: Preprocess | None
    tokenizer: Tokenizer | None
    teachers: tuple[StoredTeacher, ...]
    captions: CaptionShares
    scores: Column | None
    score_weights: ScoreWeights
    num_views: int
    num_ops: int
    seed: int
    rank: int
    world_size: int
    whole_image: bool
    attention: Column | None = None


class StepRows:
    """What the columns hold of a step's samples; entry i belongs to sample i of the order.

    Attributes:
        epoch: passes over all samples before this one.
        shards, rows: where each sample is, int64.
        keys: of each.
        texts: for each text that the step reads of a sample, the captions chosen for this epoch.
        crops, operations, magnitudes: the view chosen for this epoch; see `ViewRows.numbers`.
        images: per teacher the rows of these views, still encoded.
        weights: of each sample, float32, where they differ.
        attention: a teacher's ranks of these views' patches, where they are asked for.
    """

    def __init__(
        self,
        epoch: int,
        shards: np.ndarray,
        rows: np.ndarray,
        reading: Reading,
        spare: SpareArrays,
    ) -> None:
        """Make room."""
        size, teachers = len(rows), reading.teachers
        self.epoch, self.shards, self.rows = epoch, shards, rows
        self.keys = [""] * size
        self.texts = [StepTexts(size, teachers, one, spare) for one in reading.captions.shares]
        self.crops = np.empty((size, 4), np.float32)
        self.operations = np.empty((size, reading.num_ops), np.uint8)
        self.magnitudes = np.empty((size, reading.num_ops), np.float32)
        self.weights: np.ndarray | None = None
        self.images = [empty_rows(one.image_codec, size, one.embed_dim, spare) for one in teachers]
        attended = reading.attention
        grid = (0, 0) if attended is None else tuple(attended.identity["of"]["grid"])
        self.attention = np.empty((size, *grid), np.uint8)

    @property
    def captions(self) -> list[str]:
        """The caption of each; of two, the first."""
        return self.texts[0].captions

    def view_numbers(self, slot: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the view of one sample, as `ViewRows.made` takes it."""
        return self.crops[slot], self.operations[slot], self.magnitudes[slot]
