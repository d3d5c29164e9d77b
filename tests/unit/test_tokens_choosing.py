"""Which patches stay: how many, how spread, and that draws are functions of the sample alone."""

import pytest
import torch

from students.tokens.choosing import (
    CHOICES,
    best_patches,
    hashed,
    how_many,
    resampled,
    sample_seeds,
    uniform,
)

KEYS = [f"sample-{i}" for i in range(64)]
GRIDS = [(14, 14), (7, 7), (3, 5), (2, 2)]


@pytest.mark.parametrize("kind", CHOICES)
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("keep", [0.1, 0.25, 0.5, 0.75])
def test_indices_are_ascending_and_in_the_picture(kind, grid, keep):
    kept = CHOICES[kind](sample_seeds(0, 1, KEYS), grid, keep)
    assert kept.shape[0] == len(KEYS) and kept.shape[1] >= 1
    assert (kept >= 0).all() and (kept < grid[0] * grid[1]).all()
    assert (kept.diff(dim=1) > 0).all()
    if kind != "block":
        assert kept.shape[1] == how_many(grid[0] * grid[1], keep)


@pytest.mark.parametrize("kind", CHOICES)
def test_a_sample_is_drawn_alike_in_any_company(kind):
    """So two processes are one, a resumed run goes on, and micro-batches do not matter."""
    together = CHOICES[kind](sample_seeds(3, 7, KEYS), (14, 14), 0.5)
    alone = torch.cat([CHOICES[kind](sample_seeds(3, 7, [key]), (14, 14), 0.5) for key in KEYS])
    assert torch.equal(together, alone)


@pytest.mark.parametrize("kind", CHOICES)
def test_seed_step_and_sample_each_matter(kind):
    first = CHOICES[kind](sample_seeds(0, 1, KEYS), (14, 14), 0.5)
    for seeds in (sample_seeds(1, 1, KEYS), sample_seeds(0, 2, KEYS), sample_seeds(0, 1, KEYS[1:])):
        other = CHOICES[kind](seeds, (14, 14), 0.5)
        assert (other != first[: len(other)]).float().mean() > 0.5


def test_random_patches_are_equally_likely():
    seeds = sample_seeds(0, 0, [str(i) for i in range(4_000)])
    kept = CHOICES["random"](seeds, (4, 4), 0.25)
    share = torch.bincount(kept.flatten(), minlength=16) / 4_000
    assert (share - 0.25).abs().max() < 0.03


def test_a_quarter_of_the_grid_is_one_from_every_window():
    kept = CHOICES["grid"](sample_seeds(0, 0, KEYS), (14, 14), 0.25)
    windows = (kept // 14 // 2) * 7 + kept % 14 // 2
    assert torch.equal(windows.sort(dim=1).values, torch.arange(49).expand(len(KEYS), -1))
    assert len({tuple(row) for row in kept.tolist()}) == len(KEYS)


@pytest.mark.parametrize("keep", [0.4, 0.5, 0.6])
def test_windows_differ_by_one_patch_at_most(keep):
    kept = CHOICES["grid"](sample_seeds(0, 0, KEYS), (14, 14), keep)
    for row in (kept // 14 // 2) * 7 + kept % 14 // 2:
        counts = torch.bincount(row, minlength=49)
        assert counts.max() - counts.min() <= 1


def test_a_block_is_one_rectangle():
    kept = CHOICES["block"](sample_seeds(0, 0, KEYS), (14, 14), 0.5)
    assert kept.shape[1] == 10 * 10
    rows, columns = kept // 14, kept % 14
    assert (rows.max(1).values - rows.min(1).values == 9).all()
    assert (columns.max(1).values - columns.min(1).values == 9).all()
    assert len(kept[:, 0].unique()) > 10


def test_planted_patches_are_kept():
    torch.manual_seed(0)
    scores = torch.rand(16, 14, 14)
    planted = torch.rand(16, 196).argsort(1)[:, :40]
    scores.view(16, 196).scatter_(1, planted, 2.0)
    kept = best_patches(scores, (14, 14), 0.5)
    assert (kept[:, :, None] == planted[:, None, :]).any(1).all()


def test_scores_of_another_grid_are_means_over_areas():
    scores = torch.rand(2, 16, 16, dtype=torch.float64)
    halved = resampled(scores, (8, 8))
    assert torch.allclose(halved, scores.unflatten(2, (8, 2)).unflatten(1, (8, 2)).mean((2, 4)))
    odd = resampled(scores, (7, 5))
    assert torch.allclose(odd.mean((1, 2)), scores.mean((1, 2)))
    assert torch.allclose(resampled(torch.ones(1, 3, 3), (14, 14)), torch.ones(1, 14, 14))


def test_draws_are_uniform_and_streams_independent():
    seeds = sample_seeds(0, 0, [str(i) for i in range(2_000)])
    first, second = uniform(seeds, 8), uniform(seeds, 8, stream=1)
    assert (hashed(seeds, 8) >= 0).all() and first.min() >= 0 and first.max() < 1
    assert (first.mean(0) - 0.5).abs().max() < 0.03
    both = torch.cat([first, second], dim=1)
    assert (torch.corrcoef(both.T) - torch.eye(16)).abs().max() < 0.1


def test_splitmix64_is_the_published_one():
    """The first values of seed 0, as the reference implementation gives them (top 63 bits)."""
    found = hashed(torch.zeros(1, dtype=torch.int64), 3)[0].tolist()
    assert found == [v >> 1 for v in (0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F)]
