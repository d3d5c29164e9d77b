"""`Reinforcement`: the job of `distill reinforce`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

from distill import model_loading
from distill.launching.job import absolute_model, absolute_store
from reinforced_data.ranks import own_device
from reinforced_data.reinforce_report import ReinforceReport
from reinforced_data.reinforce_work import ReinforceSettings, ReinforceWork, make_reinforce_work
from reinforced_data.reinforcing import conclude
from reinforced_data.shard_walk import Walked
from reinforced_data.source import expand_sources
from reinforced_data.store.columns import Column
from reinforced_data.store.layout import Store, create_store
from teachers import Teacher
from teachers.teacher import Precision


@dataclass(frozen=True, kw_only=True)
class Reinforcement:
    """A `Job`: what to write; teachers travel by name, not as modules.

    Attributes:
        source: shards that every worker can read.
        out: a store that every worker can write.
        teachers: what `load_model` takes, or a function that makes teachers where it is called.
        precision: of the teachers' weights.
        device: where they run.
        settings: of `reinforce`.
    """

    verb: ClassVar[str] = "reinforce"
    source: str | Sequence[str]
    out: str
    teachers: Sequence[str] | Callable[[], Sequence[Teacher]] = ()
    precision: Precision = "fp32"
    device: str = "cpu"
    settings: ReinforceSettings = field(default_factory=ReinforceSettings)

    def _load_teachers(self) -> list[Teacher]:
        """Load the teachers in this process."""
        if callable(self.teachers):
            return list(self.teachers())
        device = own_device(self.device)
        load = model_loading.load_frozen
        return [load(spec, self.precision, device) for spec in self.teachers]

    def make(self) -> ReinforceWork:
        """Load the teachers and open the store; raises as `reinforce` does."""
        teachers = self._load_teachers()
        return make_reinforce_work(self.source, self.out, teachers, self._settings_for(teachers))

    def _settings_for(self, teachers: Sequence[Teacher]) -> ReinforceSettings:
        """Name the teacher whose attention is kept, where it is asked for by its specification."""
        names = {} if callable(self.teachers) else dict(zip(self.teachers, teachers, strict=True))
        asked = self.settings.attention
        found = names.get(asked) if asked is not None else None
        return self.settings if found is None else replace(self.settings, attention=found.name)

    def from_anywhere(self) -> "Reinforcement":
        """Return the same with shards listed and absolute paths: workers start elsewhere."""
        teachers = self.teachers
        if not callable(teachers):
            teachers = [absolute_model(spec) for spec in teachers]
        settings = self.settings
        if settings.attention is not None:
            settings = replace(settings, attention=absolute_model(settings.attention))
        return replace(
            self,
            source=expand_sources(self.source),
            out=absolute_store(self.out),
            teachers=teachers,
            settings=settings,
        )

    def open(self) -> Store:
        """Create the store, or open the one that is there; raises as `create_store`."""
        assert not isinstance(self.source, str), "only of what `from_anywhere` returned"
        return create_store(self.out, list(self.source))

    def conclude(
        self,
        store: Store,
        columns: Sequence[Column],
        *,
        already: int,
        walked: Walked,
        started: float,
    ) -> ReinforceReport:
        """Tidy up after all workers, and count; raises as `report_on`."""
        return conclude(store, columns, already=already, walked=walked, started=started)
