"""The ladder's rows: whose rate each takes, what it is compared with, and at what work."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from ladder import ALL_ROWS, in_order
from ladder_against import SWEEPING, base_of, rate_from, same_work_as
from ladder_rows import Place
from ladder_tokens import SAME_WORK, TOKEN_POLICIES, VIT, relative_work

PLACE = Place(store="store", donor="a", other="b", splits={}, runs=Path("runs"), teaching=100.0)


@pytest.mark.parametrize("name", ALL_ROWS)
def test_what_a_row_is_compared_with_is_a_row(name):
    assert rate_from(name) in SWEEPING and rate_from(rate_from(name)) == rate_from(name)
    found, met = base_of(name), {name}
    while found is not None:  # no row is compared with itself, by whatever way
        assert found in ALL_ROWS and found not in met
        met.add(found)
        found = base_of(found)
    assert same_work_as(name) in {None, *ALL_ROWS}


def test_rates_are_found_before_they_are_taken():
    order = in_order()
    assert sorted(order) == sorted(ALL_ROWS)
    assert all(order.index(rate_from(name)) <= order.index(name) for name in order)


def test_a_row_differs_from_its_base_and_no_two_are_the_same_run():
    configs = {name: row(PLACE, 400) for name, row in ALL_ROWS.items()}
    # What these read is in other stores, which the ladder gives them.
    elsewhere = {"misreplayed-views", "sixteen-views", "distilled"} | {
        name for name in ALL_ROWS if name.startswith(("codec-", "cropped-views"))
    }
    own = [replace(config, out="") for name, config in configs.items() if name not in elsewhere]
    assert all(own.count(config) == 1 for config in own)


@pytest.mark.parametrize("name", SAME_WORK)
def test_the_plain_vit_has_the_work_of_the_policy(name):
    """Multiplications of all steps, the last tenth of which is on every token."""
    steps = 400
    of_policy = steps * (0.9 * relative_work(TOKEN_POLICIES[name]) + 0.1)
    plain = ALL_ROWS[SAME_WORK[name]](PLACE, steps)
    assert plain.schedule.num_steps == pytest.approx(of_policy, rel=0.01)
    assert plain.tokens == ALL_ROWS[VIT](PLACE, steps).tokens
