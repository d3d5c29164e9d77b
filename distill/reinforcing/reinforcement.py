"""What the workers of stage 1 are told, wherever they run."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from distill import model_loading
from reinforced_data.ranks import own_device
from reinforced_data.reinforce_work import ReinforceSettings, ReinforceWork, make_reinforce_work
from reinforced_data.source import expand_sources
from reinforced_data.store.storage import Storage
from teachers import Teacher
from teachers.teacher import Precision


@dataclass(frozen=True, kw_only=True)
class Reinforcement:
    """What to write; teachers travel by name, not as modules.

    Attributes:
        source: shards that every worker can read.
        out: a store that every worker can write.
        teachers: what `load_model` takes, or a function that makes teachers where it is called.
        precision: of the teachers' weights.
        device: where they run.
        settings: of `reinforce`.
    """

    source: str | Sequence[str]
    out: str
    teachers: Sequence[str] | Callable[[], Sequence[Teacher]] = ()
    precision: Precision = "fp32"
    device: str = "cpu"
    settings: ReinforceSettings = field(default_factory=ReinforceSettings)

    def load_teachers(self) -> list[Teacher]:
        """Load the teachers in this process."""
        if callable(self.teachers):
            return list(self.teachers())
        device = own_device(self.device)
        load = model_loading.load_frozen
        return [load(spec, self.precision, device) for spec in self.teachers]

    def make(self) -> ReinforceWork:
        """Load the teachers and open the store; raises as `reinforce` does."""
        teachers = self.load_teachers()
        return make_reinforce_work(self.source, self.out, teachers, self.settings_for(teachers))

    def settings_for(self, teachers: Sequence[Teacher]) -> ReinforceSettings:
        """Name the teacher whose attention is kept, where it is asked for by its specification."""
        names = {} if callable(self.teachers) else dict(zip(self.teachers, teachers, strict=True))
        asked = self.settings.attention
        found = names.get(asked) if asked is not None else None
        return self.settings if found is None else replace(self.settings, attention=found.name)

    def from_anywhere(self) -> "Reinforcement":
        """Return the same with shards listed and absolute paths: workers start elsewhere."""
        teachers = self.teachers
        if not callable(teachers):
            teachers = [_from_anywhere(spec) for spec in teachers]
        settings = self.settings
        if settings.attention is not None:
            settings = replace(settings, attention=_from_anywhere(settings.attention))
        out = Storage(self.out)
        return replace(
            self,
            source=expand_sources(self.source),
            out=os.path.abspath(out.root) if out.local else out.name,
            teachers=teachers,
            settings=settings,
        )


def _from_anywhere(teacher: str) -> str:
    return os.path.abspath(teacher) if os.path.isdir(teacher) else teacher
