"""What workers of stage 1 are told, wherever they run."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from reinforced_data.ranks import own_device
from reinforced_data.reinforce_work import ReinforceSettings
from reinforced_data.source import expand_sources
from reinforced_data.storage import Storage
from teachers import Teacher
from teachers.teacher import Precision


@dataclass(frozen=True, kw_only=True)
class RemoteWork:
    """What workers elsewhere are told; teachers travel by name, not as pickled modules.

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
        from distill.model_loading import load_frozen

        if callable(self.teachers):
            return list(self.teachers())
        device = own_device(self.device)
        return [load_frozen(spec, self.precision, device) for spec in self.teachers]

    def from_anywhere(self) -> "RemoteWork":
        """Return the same with shards listed and absolute paths: workers start elsewhere."""
        teachers = self.teachers
        if not callable(teachers):
            teachers = [os.path.abspath(t) if os.path.isdir(t) else t for t in teachers]
        out = Storage(self.out)
        where = os.path.abspath(out.root) if out.local else out.name
        return replace(self, source=expand_sources(self.source), out=where, teachers=teachers)
