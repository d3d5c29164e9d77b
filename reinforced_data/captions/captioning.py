"""`caption`: add a set of written captions to a store, shard by shard, with teachers' rows for it.

The unit is (column, shard), as for `reinforce`: the same call resumes, several processes may run it
at once, and nothing that is in the store already is touched. A sample for which nothing is left is
a null row with a reason; training falls back to its original captions there.
"""

import time
from collections.abc import Sequence
from pathlib import Path

from reinforced_data.captions.caption_report import CaptionReport, conclude_captions
from reinforced_data.captions.caption_work import CaptionWork
from reinforced_data.captions.filters import LengthBounds
from reinforced_data.captions.plan import make_caption_plan
from reinforced_data.captions.settings import CaptionSettings, check_parts
from reinforced_data.in_process import work_here
from reinforced_data.shard_work import done_in, waiting_in
from reinforced_data.store.layout import open_store
from teachers import Captioner, ClipModel, load_captioner

__all__ = ["CaptionReport", "caption", "make_caption_work"]


def caption(
    store: str | Path,
    captioner: Captioner | str | None = None,
    *,
    name: str,
    num_captions: int = 5,
    seed: int = 0,
    min_words: int = 2,
    max_words: int | None = None,
    min_score: float | None = None,
    score_teacher: ClipModel | None = None,
    teachers: ClipModel | Sequence[ClipModel] = (),
    batch_size: int = 32,
    retry_quarantined: bool = False,
    progress: bool = True,
) -> CaptionReport:
    """Write a caption set, or what is missing of it, and teachers' rows for it.

    Args:
        store: a reinforced dataset's folder or URL.
        captioner: who writes, or what `load_captioner` makes one of. None embeds the set that is
            there with `teachers` and looks at nothing else.
        name: the set's: lower-case letters, digits, hyphens.
        num_captions: asked for per sample; fewer may be kept. MobileCLIP has 5, and found that
            more than 2 add little.
        seed: of the captions.
        min_words: shorter captions are dropped.
        max_words: longer ones are dropped; None for no bound.
        min_score: captions whose mean cosine with the sample's stored views is lower are dropped.
        score_teacher: whose cosine; it must have written image rows in this store.
        teachers: live teachers of this store whose text rows for the set are written, stored as
            their rows for the original captions are.
        batch_size: samples per call of the captioner, and texts per call of a teacher.
        retry_quarantined: try shards again at which three workers died.
        progress: whether to draw a progress bar on stderr.

    Raises:
        ValueError: an argument is not usable, there is no store, it has another set of this name,
            a teacher is not one of the store's, the source has changed, or the captioner gives
            nothing usable.
        OSError: the store cannot be written, or a captioner's server not reached; what is
            committed is whole.
        Interrupted: SIGINT, SIGTERM or SIGUSR1 came; the same call goes on.
    """
    started = time.perf_counter()
    settings = CaptionSettings(
        name=name,
        num_captions=num_captions,
        seed=seed,
        bounds=LengthBounds(min_words=min_words, max_words=max_words),
        min_score=min_score,
        batch_size=batch_size,
    )
    members = [teachers] if isinstance(teachers, ClipModel) else list(teachers)
    captioner = load_captioner(captioner) if isinstance(captioner, str) else captioner
    work = make_caption_work(
        store, captioner, settings, score_teacher=score_teacher, teachers=members
    )
    already, walked = work_here(
        work, "caption", retry_quarantined=retry_quarantined, progress=progress
    )
    return conclude_captions(
        work.store, work.columns, already=already, walked=walked, started=started
    )


def make_caption_work(
    store: str | Path,
    captioner: Captioner | None,
    settings: CaptionSettings,
    *,
    score_teacher: ClipModel | None,
    teachers: Sequence[ClipModel],
) -> CaptionWork:
    """Open the store and write down the columns; raises as `caption` does."""
    check_parts(
        settings,
        writes=captioner is not None,
        embeds=bool(teachers),
        scores=score_teacher is not None,
    )
    opened = open_store(store)
    plan = make_caption_plan(
        opened, captioner, settings, score_teacher=score_teacher, teachers=teachers
    )
    work = CaptionWork(opened, plan)
    if len(waiting_in(opened, work.needs) - done_in(work)) == opened.num_shards:
        raise ValueError(
            f"{opened.name} has no shard from which the caption set {settings.name!r} could be "
            "made: distill reinforce has not finished one"
        )
    return work
