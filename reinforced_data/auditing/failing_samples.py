"""The samples that a diagnosis looks at: few enough that what is tried on them costs little."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from reinforced_data.auditing.files import FileFindings
from reinforced_data.auditing.replaying import Replay, StoredShard
from reinforced_data.auditing.sources import Place
from reinforced_data.store.layout import Store
from reinforced_data.views import View

_MOST_SAMPLES = 16
_MOST_SHARDS = 4


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A cause, a text that says it, and the errors of the samples if it were so."""

    cause: str
    text: str
    errors: np.ndarray


class FailingSamples:
    """The failing samples, a few of them, and all that a hypothesis may look at."""

    def __init__(
        self, store: Store, found: FileFindings, replay: Replay, images: dict[Place, bytes]
    ) -> None:
        self.store, self.found, self.replay = store, found, replay
        failing = np.flatnonzero(replay.errors > replay.tolerance)
        shards = sorted({replay.places[i][0] for i in failing})[:_MOST_SHARDS]
        chosen = [i for i in failing if replay.places[i][0] in shards]
        # Evenly over all of them, not the first few.
        picks = np.linspace(0, len(chosen) - 1, min(_MOST_SAMPLES, len(chosen))).astype(int)
        self.chosen = [int(chosen[i]) for i in picks]
        self.live, self.stored = replay.live[self.chosen], replay.stored[self.chosen]
        self.places = [replay.places[i] for i in self.chosen]
        self.items = [replay.items[i] for i in self.chosen]
        self.data = [images[place] for place in self.places]
        self.is_image = replay.entry.column.kind == "image_embeddings"

    @cached_property
    def shards(self) -> dict[int, StoredShard]:
        """Their shards of the column."""
        numbers = {shard for shard, _ in self.places}
        column, parent = self.replay.entry.column, self.replay.parent
        return {n: StoredShard(self.store, column, parent, n) for n in numbers}

    @cached_property
    def wanted(self) -> list[tuple[bytes, View]]:
        """What the teacher was shown: pictures and views."""
        found = []
        for (shard, row), item, data in zip(self.places, self.items, self.data, strict=True):
            views = self.shards[shard].views
            assert views is not None
            found.append((data, views.view(row, item)))
        return found

    @cached_property
    def neighbours(self) -> list[tuple[int, np.ndarray]]:
        """For each sample, its place among its shard's rows, and the errors to all of these."""
        found = []
        for live, (shard, row), item in zip(self.live, self.places, self.items, strict=True):
            rows = self.shards[shard].having(item)
            stored = self.shards[shard].unit(rows, item)
            errors = self.replay.errors_of(np.broadcast_to(live, stored.shape), stored)
            found.append((int(np.searchsorted(rows, row)), errors))
        return found
