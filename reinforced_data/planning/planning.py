"""`plan_store`: probe a source, count its samples, and say what `reinforce` will cost."""

from collections.abc import Callable, Sequence
from pathlib import Path

from reinforced_data.codecs.names import DEFAULT_CODEC
from reinforced_data.codecs.of_columns import check_codec
from reinforced_data.cores import own_cores
from reinforced_data.locations import file_sizes
from reinforced_data.planning.costing import StorePlan, check_positive
from reinforced_data.planning.probing import probe_source
from reinforced_data.planning.sample_counts import count_samples
from reinforced_data.source import expand_sources
from reinforced_data.views import ViewPolicy
from teachers import Teacher

_COUNTING_SECONDS = 5.0
# A shard in sources.json, without its path.
_LISTING_ENTRY = 48


def plan_store(
    source: str | Path | Sequence[str | Path],
    *,
    teachers: Sequence[Teacher],
    num_views: int = 10,
    policy: ViewPolicy = ViewPolicy(),  # noqa: B008 - frozen
    codec: str = DEFAULT_CODEC,
    captions_from: str | None = None,
    batch_size: int = 256,
    workers: int = 1,
    cores: float | int | None = None,
    price_per_hour: float | int | None = None,
    start_seconds: float = 0.0,
    samples: int | None = None,
    probe_samples: int = 256,
    tower_seconds: float = 5.0,
    say: Callable[[str], None] = lambda _: None,
) -> StorePlan:
    """Probe a source and say what `reinforce` with the same arguments will cost.

    Args:
        source, teachers, num_views, policy, codec, captions_from, batch_size: as for `reinforce`.
        workers, cores, price_per_hour, start_seconds: see `StorePlan`. Cores are this process'
            own by default; more than 8 a worker are not used.
        samples: plan for so many instead of those that the source has.
        probe_samples: how many to measure.
        tower_seconds: how long to time each tower, about.
        say: told what is going on.

    Raises:
        ValueError: an argument or the source is not usable.
    """
    cores = own_cores(most=8) if cores is None else cores
    check_positive(workers=workers, cores=cores, num_views=num_views, batch_size=batch_size)
    check_positive(probe_samples=probe_samples, samples=1 if samples is None else samples)
    check_codec(codec)
    shards = expand_sources(source)
    measured = probe_source(
        shards,
        teachers=teachers,
        num_views=num_views,
        policy=policy,
        codec=codec,
        captions_from=captions_from,
        batch_size=batch_size,
        samples=probe_samples,
        seconds=tower_seconds,
        say=say,
    )
    say("counting samples")
    count = count_samples(shards, file_sizes(shards), seconds=_COUNTING_SECONDS)
    plan = StorePlan(
        source=shards[0],
        samples=count.samples,
        samples_from="counted" if count.counted else "estimated",
        samples_error=count.error / count.samples,
        shards=len(shards),
        listing_bytes=sum(map(len, shards)) / len(shards) + _LISTING_ENTRY,
        workers=workers,
        cores=cores,
        price_per_hour=price_per_hour,
        start_seconds=start_seconds,
        measured=measured,
    )
    return plan if samples is None else plan.revised(samples=samples)
