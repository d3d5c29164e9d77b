"""The simulator against closed forms."""

import math
from typing import Any

import pytest

from reinforced_data import Cluster, simulate

# Nothing takes time but the work.
BARE: dict[str, Any] = {"columns": 5, "spread": 0.0, "start_seconds": 0.0, "request_seconds": 0.0}


@pytest.mark.parametrize(("shards", "workers"), [(100, 10), (103, 10), (7, 10), (1, 1)])
def test_without_preemption_work_is_shared_to_within_a_shard(shards, workers):
    found = simulate(Cluster(**BARE, shards=shards, shard_seconds=60, workers=workers))
    turns = math.ceil(shards / workers)
    assert found.finish_seconds == pytest.approx(60 * turns)
    assert found.useful_hours == pytest.approx(shards / 60)
    assert found.redone_hours == 0 and found.preemptions == 0
    if shards % workers == 0:
        assert found.duplicates == 0 and found.worker_hours == pytest.approx(shards / 60)


def test_one_preempted_worker_takes_what_the_formula_says():
    """A shard of T seconds at rate r, restart R: (exp(r T) - 1) (1 / r + R) on average."""
    seconds, hours, away, shards = 600.0, 0.5, 120.0, 200
    rate = 1 / (3600 * hours)
    each = (math.exp(rate * seconds) - 1) * (1 / rate + away)
    redone = (math.exp(rate * seconds) - 1) / rate - seconds
    runs = [
        simulate(
            Cluster(
                **BARE,
                shards=shards,
                shard_seconds=seconds,
                workers=1,
                preemption_hours=hours,
                warned=1.0,  # whoever is killed would have to wait for the sign of it
                restart_seconds=away,
                seed=seed,
            )
        )
        for seed in range(20)
    ]
    # 4,000 shards: the standard error of both means is below 1 %.
    finish = sum(run.finish_seconds for run in runs) / len(runs) / shards
    lost = sum(run.redone_hours for run in runs) / len(runs) / shards * 3600
    assert finish == pytest.approx(each, rel=0.03)
    assert lost == pytest.approx(redone, rel=0.06)


def test_the_same_seed_gives_the_same_run_and_another_another():
    cluster = Cluster(shards=300, shard_seconds=60, workers=20, columns=5, preemption_hours=0.3)
    assert simulate(cluster) == simulate(cluster)
    other = Cluster(
        shards=300, shard_seconds=60, workers=20, columns=5, preemption_hours=0.3, seed=1
    )
    assert simulate(cluster).finish_seconds != simulate(other).finish_seconds


def test_a_slow_worker_is_helped():
    """Of ten workers of very different speed nobody's block is left to its owner alone."""
    found = simulate(
        Cluster(shards=1000, shard_seconds=60, workers=10, columns=5, spread=0.7, start_seconds=0)
    )
    assert found.finish_seconds < 1.1 * found.ideal_seconds
    assert found.duplicated < 0.03


def test_killed_workers_shards_are_done_and_not_lost():
    found = simulate(
        Cluster(shards=500, shard_seconds=600, workers=20, columns=5, preemption_hours=3, seed=3)
    )
    assert found.preemptions > 20 and found.redone_hours > 0
    assert found.useful_hours > 0 and found.quarantined <= 1


@pytest.mark.parametrize(
    ("name", "value"),
    [("shards", 0), ("workers", -1), ("preemption_hours", 0), ("warned", 2), ("spread", -0.1)],
)
def test_what_cannot_be_is_refused(name, value):
    with pytest.raises(ValueError, match=name):
        Cluster(**{"shards": 1, "shard_seconds": 1, "workers": 1, "columns": 1, name: value})
