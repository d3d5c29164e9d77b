"""`reinforce`: write down what teachers say about a source, once, shard by shard.

The unit is (column, shard). The same command resumes; several processes may run it at once, on one
machine or many: a rank only says where in the list of shards each one begins (ranks.py).
"""

import time
from collections.abc import Sequence
from pathlib import Path

from reinforced_data.codecs.names import DEFAULT_CODEC
from reinforced_data.in_process import work_here
from reinforced_data.reinforce_report import ReinforceReport, report_on
from reinforced_data.reinforce_work import ReinforceSettings, make_reinforce_work
from reinforced_data.shard_walk import Walked
from reinforced_data.shard_work import tidy_up
from reinforced_data.store.columns import DEFAULT, Column
from reinforced_data.store.layout import Store
from reinforced_data.views import ViewPolicy
from teachers import Ensemble, Teacher

__all__ = ["ReinforceReport", "conclude", "reinforce"]


def reinforce(
    source: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    teachers: Ensemble | Teacher | Sequence[Teacher],
    view_set: str = DEFAULT,
    num_views: int = 10,
    policy: ViewPolicy = ViewPolicy(),  # noqa: B008 - frozen
    codec: str = DEFAULT_CODEC,
    seed: int = 0,
    captions_from: str | None = None,
    batch_size: int = 256,
    attention: str | None = None,
    retry_quarantined: bool = False,
    progress: bool = True,
) -> ReinforceReport:
    """Write a reinforced dataset, or what is missing of it.

    Args:
        source: shards; see `expand_sources`.
        out: the store's folder; one that is there is completed, and other teachers are added.
        teachers: whose embeddings to write. With () only the index, the captions and the views
            are written, which is what undistilled training on the same pictures needs.
        view_set: the set's name. A store may hold several, each with its own policy, number and
            seed; teachers are asked again for each, texts are not.
        num_views: views per image.
        policy: what views are drawn from.
        codec: how embeddings are stored: float32, float16, bfloat16, int8, int4, pq64, pq96,
            pq128 or pq192. The table in docs/codecs.md says what each costs and loses.
        seed: of the views.
        captions_from: see `read_shard`.
        batch_size: views, or texts, per call of a teacher.
        attention: the name of the teacher whose attention to each view's patches is kept too, for
            students that drop patches (docs/tokens.md); it costs no pass of its own.
        retry_quarantined: try shards again at which three workers died; by default they are left
            out and reported.
        progress: whether to draw a progress bar on stderr.

    Raises:
        ValueError: an argument or the source is not usable, the store was made from another
            source or with other captions, another view set or teacher of the same name, or a
            teacher gives nothing usable.
        OSError: the store cannot be written; what is committed is whole.
        Interrupted: SIGINT, SIGTERM or SIGUSR1 came; the same call goes on. A second signal does
            what it always does, at once.
    """
    started = time.perf_counter()
    settings = ReinforceSettings(
        view_set=view_set,
        num_views=num_views,
        policy=policy,
        codec=codec,
        seed=seed,
        captions_from=captions_from,
        batch_size=batch_size,
        attention=attention,
    )
    work = make_reinforce_work(source, out, teachers, settings)
    already, walked = work_here(
        work, "reinforce", retry_quarantined=retry_quarantined, progress=progress
    )
    return conclude(work.store, work.columns, already=already, walked=walked, started=started)


def conclude(
    store: Store, columns: Sequence[Column], *, already: int, walked: Walked, started: float
) -> ReinforceReport:
    """Tidy a store up after the work on these columns, and count; raises as `report_on`."""
    tidy_up(store, columns)
    seconds = time.perf_counter() - started
    return report_on(store, columns, already=already, walked=walked, seconds=seconds)
