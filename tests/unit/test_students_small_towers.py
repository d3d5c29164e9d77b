"""The small convolutional tower: its sizes are what the demo's ratios are built on."""

import pytest
import torch

from students.small_towers import SmallConv, small_tower


def count(module: torch.nn.Module) -> int:
    return sum(value.numel() for value in module.parameters())


def test_the_small_student_is_a_seventh_of_the_teacher() -> None:
    large, small = small_tower("smallconv-32", 128), small_tower("smallconv-10", 128)
    assert count(large) == 353_120
    assert count(small) == 49_058
    assert count(large) / count(small) > 7


@pytest.mark.parametrize("size", [32, 48, 65])
def test_any_picture_size_gives_rows_of_the_same_width(size: int) -> None:
    assert SmallConv(4, 24)(torch.rand(3, 3, size, size)).shape == (3, 24)


def test_32_pixels_end_as_4() -> None:
    assert SmallConv(4, 24).features(torch.rand(1, 3, 32, 32)).shape[2:] == (4, 4)


def test_a_cut_out_corner_changes_the_embedding() -> None:
    tower = SmallConv(4, 24).eval()
    pixels = torch.rand(1, 3, 32, 32)
    other = pixels.clone()
    other[..., -4:, -4:] = 0
    assert not torch.allclose(tower(pixels), tower(other))


@pytest.mark.parametrize("name", ["smallconv-", "smallconv-x", "smallconv-0", "smallconv--3"])
def test_a_bad_width_says_how_to_write_it(name: str) -> None:
    with pytest.raises(ValueError, match="smallconv-32"):
        small_tower(name, 8)
