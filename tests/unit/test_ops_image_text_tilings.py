"""Tilings are kept in a file that is whole at any time; nothing is timed on a CPU."""

import multiprocessing

import pytest
import torch

from distill.ops.image_text.triton_launch import Operands
from distill.ops.image_text.triton_tiling import CANDIDATES, Tiling, Window
from distill.ops.image_text.triton_tuning import (
    keep_tiling,
    read_tilings,
    tiling_for,
    tilings_file,
)


def keep_many(path, writer):
    for number in range(20):
        keep_tiling(path, f"writer {writer} shape {number}", CANDIDATES[writer])


def test_what_was_kept_is_read(tmp_path):
    path = tmp_path / "cache" / "tilings.json"
    keep_tiling(path, "a", CANDIDATES[0])
    keep_tiling(path, "b", CANDIDATES[-1])
    assert read_tilings(path) == {"a": CANDIDATES[0], "b": CANDIDATES[-1]}


def test_writers_at_once_leave_a_whole_file(tmp_path):
    path = tmp_path / "tilings.json"
    spawn = multiprocessing.get_context("fork")
    writers = [spawn.Process(target=keep_many, args=(path, writer)) for writer in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    kept = read_tilings(path)
    assert kept and all(tiling in CANDIDATES for tiling in kept.values())
    assert [file.name for file in tmp_path.iterdir()] == ["tilings.json"]


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"a": {"tile": 3}}'])
def test_a_file_that_is_not_ours_is_timed_anew(tmp_path, text):
    path = tmp_path / "tilings.json"
    path.write_text(text)
    assert read_tilings(path) == {}
    keep_tiling(path, "a", Tiling())
    assert read_tilings(path) == {"a": Tiling()}


def test_the_environment_names_the_file(monkeypatch, tmp_path):
    monkeypatch.delenv("CLIP_DISTILL_TILINGS", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert tilings_file() == tmp_path / "clip-distill" / "tilings.json"
    monkeypatch.setenv("CLIP_DISTILL_TILINGS", str(tmp_path / "mine.json"))
    assert tilings_file() == tmp_path / "mine.json"


def test_nothing_is_timed_on_a_cpu(monkeypatch, tmp_path):
    monkeypatch.setenv("CLIP_DISTILL_TILINGS", str(tmp_path / "tilings.json"))
    rows = torch.zeros(4096, 8)
    operands = Operands(
        lefts=(rows,), rights=(rows,), scales=torch.ones(1), biases=torch.zeros(1), sigmoid=False
    )
    assert tiling_for(operands, "sums") == CANDIDATES[0]
    assert not (tmp_path / "tilings.json").exists()


@pytest.mark.parametrize("rows, columns", [(1, 1), (100, 250), (64, 65)])
def test_super_tiles_cover_every_pair_once(rows, columns):
    seen = torch.zeros(rows, columns, dtype=torch.int64)
    for window in Tiling(side=64).windows(rows, columns):
        seen[window.rows, window.columns] += 1
    assert (seen == 1).all()


def test_tiles_cover_a_super_tile():
    window = Window(slice(64, 128), slice(0, 65))
    assert Tiling(block_m=64, block_n=64).tiles(window) == (1, 2)
    assert window.diagonal == -64
