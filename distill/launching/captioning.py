"""`Captioning`: the job of `distill caption`."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

from distill import model_loading
from distill.launching.job import absolute_model, absolute_store
from reinforced_data.captions.caption_report import CaptionReport, conclude_captions
from reinforced_data.captions.caption_work import CaptionWork
from reinforced_data.captions.captioning import make_caption_work
from reinforced_data.captions.settings import CaptionSettings, check_parts
from reinforced_data.ranks import own_device
from reinforced_data.shard_walk import Walked
from reinforced_data.store.columns import Column
from reinforced_data.store.layout import Store, open_store
from teachers import Captioner, Teacher, load_captioner
from teachers.captioners.catalog import absolute_captioner
from teachers.captioners.settings import CaptionerSettings
from teachers.teacher import Precision


@dataclass(frozen=True, kw_only=True)
class Captioning:
    """A `Job`: which captions to write; captioner and teachers travel by name, not as modules.

    Attributes:
        out: a store that every worker can write.
        captioner: what `load_captioner` takes, a function that makes one where it is called, or
            None: the set that is there is only embedded.
        captioner_settings: how `load_captioner` sets it up.
        score_teacher: whose cosine filters: what `load_model` takes.
        teachers: whose rows are written: what `load_model` takes, or a function that makes
            teachers where it is called.
        precision: of the teachers' weights.
        teacher_device: where they run.
        settings: of `caption`.
    """

    verb: ClassVar[str] = "caption"
    out: str
    captioner: str | Callable[[], Captioner] | None = None
    captioner_settings: CaptionerSettings = field(default_factory=CaptionerSettings)
    score_teacher: str | None = None
    teachers: Sequence[str] | Callable[[], Sequence[Teacher]] = ()
    precision: Precision = "fp32"
    teacher_device: str = "cpu"
    settings: CaptionSettings

    def __post_init__(self) -> None:
        """Refuse what no worker could do."""
        check_parts(
            self.settings,
            writes=self.captioner is not None,
            embeds=bool(self.teachers),
            scores=self.score_teacher is not None,
        )

    @property
    def device(self) -> str:
        """The GPU's name where the captioner or a teacher runs on one."""
        devices = [
            device for device in (self.captioner_settings.device, self.teacher_device) if device
        ]
        return next((device for device in devices if device.startswith("cuda")), devices[0])

    def make(self) -> CaptionWork:
        """Load captioner and teachers and open the store; raises as `caption` does."""
        names = () if callable(self.teachers) else self.teachers
        device = own_device(self.teacher_device)
        loaded = {
            spec: model_loading.load_frozen(spec, self.precision, device)
            for spec in dict.fromkeys((*names, *filter(None, [self.score_teacher])))
        }
        made = self.teachers() if callable(self.teachers) else [loaded[spec] for spec in names]
        return make_caption_work(
            self.out,
            self._load_captioner(),
            self.settings,
            score_teacher=None if self.score_teacher is None else loaded[self.score_teacher],
            teachers=list(made),
        )

    def _load_captioner(self) -> Captioner | None:
        if not isinstance(self.captioner, str):
            return None if self.captioner is None else self.captioner()
        device = self.captioner_settings.device
        own = None if device is None else own_device(device)
        return load_captioner(self.captioner, replace(self.captioner_settings, device=own))

    def from_anywhere(self) -> "Captioning":
        """Return the same with absolute paths: workers start elsewhere."""
        captioner, teachers, examples = (
            self.captioner,
            self.teachers,
            self.captioner_settings.examples,
        )
        if isinstance(captioner, str):
            captioner = absolute_captioner(captioner)
        if not callable(teachers):
            teachers = [absolute_model(spec) for spec in teachers]
        if examples is not None:
            examples = os.path.abspath(examples)
        return replace(
            self,
            out=absolute_store(self.out),
            captioner=captioner,
            captioner_settings=replace(self.captioner_settings, examples=examples),
            score_teacher=self.score_teacher and absolute_model(self.score_teacher),
            teachers=teachers,
        )

    def open(self) -> Store:
        """Open the store; raises as `open_store`."""
        return open_store(self.out)

    def conclude(
        self,
        store: Store,
        columns: Sequence[Column],
        *,
        already: int,
        walked: Walked,
        started: float,
    ) -> CaptionReport:
        """Tidy up after all workers, and count; raises as `conclude_captions`."""
        return conclude_captions(store, columns, already=already, walked=walked, started=started)
