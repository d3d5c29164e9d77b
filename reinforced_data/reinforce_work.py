"""What one call of `reinforce` has to do, ready to be done shard by shard, by any launcher."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from reinforced_data.codecs.names import DEFAULT_CODEC
from reinforced_data.codecs.of_columns import check_codec
from reinforced_data.plan import Plan, make_plan
from reinforced_data.shard_pass import reinforce_shard
from reinforced_data.shard_work import Counts
from reinforced_data.source import expand_sources
from reinforced_data.store.columns import DEFAULT, Column
from reinforced_data.store.layout import Store, create_store
from reinforced_data.view_policy import ViewPolicy
from teachers import Ensemble, Teacher


@dataclass(frozen=True, kw_only=True)
class ReinforceSettings:
    """The settings of `reinforce`, which says what they mean."""

    view_set: str = DEFAULT
    num_views: int = 10
    policy: ViewPolicy = field(default_factory=ViewPolicy)
    codec: str = DEFAULT_CODEC
    seed: int = 0
    captions_from: str | None = None
    batch_size: int = 256
    attention: str | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be used."""
        if self.num_views < 1 or self.batch_size < 1:
            raise ValueError(
                "num_views and batch_size must be at least 1, got "
                f"{self.num_views} and {self.batch_size}"
            )
        check_codec(self.codec)


@dataclass(frozen=True, kw_only=True)
class ReinforceWork:
    """A store, the columns that are asked for, and how to write a shard of them (a `ShardWork`).

    Attributes:
        store: where to.
        plan: the columns and who writes them.
        batch_size: views, or texts, per call of a teacher.
    """

    store: Store
    plan: Plan
    batch_size: int

    @property
    def columns(self) -> tuple[Column, ...]:
        """What is written."""
        return self.plan.columns

    @property
    def needs(self) -> tuple[Column, ...]:
        """What a shard has to have before: the source has it all."""
        return ()

    def shard(
        self,
        shard: int,
        between_batches: Callable[[], None],
        on_sample: Callable[[int], None],
    ) -> bool:
        """Write a shard; see `reinforce_shard`."""
        return reinforce_shard(
            self.store,
            self.plan,
            shard,
            batch_size=self.batch_size,
            on_sample=on_sample,
            between_batches=between_batches,
        )

    def take_counts(self) -> Counts:
        """Return nothing: all that is told of is in the commits."""
        return Counter()

    def warn_by(self, tell: Callable[[str], None]) -> None:
        """There is nothing to warn of."""


def make_reinforce_work(
    source: str | Path | Sequence[str | Path],
    out: str | Path,
    teachers: Ensemble | Teacher | Sequence[Teacher],
    settings: ReinforceSettings,
) -> ReinforceWork:
    """Create or open the store and write down its columns; raises as `reinforce` does."""
    members = [teachers] if isinstance(teachers, Teacher) else list(teachers)
    if members:
        members = list(Ensemble(*members))
    store = create_store(out, expand_sources(source))
    planned = {**asdict(settings), "policy": settings.policy}
    batch_size = planned.pop("batch_size")
    return ReinforceWork(
        store=store, plan=make_plan(store, members, **planned), batch_size=batch_size
    )
