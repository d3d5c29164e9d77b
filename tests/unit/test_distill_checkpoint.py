"""Checkpoints: whole or absent, newest found, old removed, other models refused."""

from pathlib import Path

import pytest
import torch
from torch import nn

from distill.checkpoint import (
    load_checkpoint,
    newest_checkpoint,
    remove_old_checkpoints,
    save_checkpoint,
)


def model(width=3):
    torch.manual_seed(width)
    return nn.Sequential(nn.Linear(2, width), nn.BatchNorm1d(width))


def trained(net, steps=3):
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.1)
    for _ in range(steps):
        net(torch.randn(4, 2)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return optimizer


def test_round_trip_restores_weights_buffers_optimizer_and_what_was_added(tmp_path):
    net = model()
    optimizer = trained(net)
    path = save_checkpoint(tmp_path, 3, {"model": net}, optimizer, {"refused": {"x": 2}})
    again = model()
    other = trained(again, steps=1)
    assert load_checkpoint(path, {"model": again}, other) == (3, {"refused": {"x": 2}})
    for name, value in net.state_dict().items():
        assert torch.equal(again.state_dict()[name], value)
    mine, theirs = optimizer.state_dict()["state"], other.state_dict()["state"]
    assert mine.keys() == theirs.keys()
    for index, entries in mine.items():
        for key, value in entries.items():
            assert torch.equal(theirs[index][key], value)


def test_the_newest_complete_one_is_found_and_old_ones_go(tmp_path):
    assert newest_checkpoint(tmp_path / "none") is None
    net = model()
    optimizer = trained(net)
    for step in (4, 8, 12):
        save_checkpoint(tmp_path, step, {"model": net}, optimizer)
    (tmp_path / "partial-00000016-99").mkdir()  # what a killed save leaves
    newest = newest_checkpoint(tmp_path)
    assert newest is not None and newest.name == "step-00000012"
    remove_old_checkpoints(tmp_path, keep=2, step=12)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000008", "step-00000012"]


def test_one_that_was_passed_over_takes_no_other_s_place(tmp_path):
    net = model()
    optimizer = trained(net)
    for step in (4, 8, 12):
        path = save_checkpoint(tmp_path, step, {"model": net}, optimizer)
    (path / "meta.json").write_text("{}")
    save_checkpoint(tmp_path, 10, {"model": net}, optimizer)
    remove_old_checkpoints(tmp_path, keep=1, step=10)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000010", "step-00000012"]
    with pytest.warns(UserWarning, match="12 is not used"):
        newest = newest_checkpoint(tmp_path)
    assert newest is not None and newest.name == "step-00000010"


def test_the_same_step_again_is_there_before_the_old_one_goes(tmp_path, monkeypatch):
    net = model()
    optimizer = trained(net)
    save_checkpoint(tmp_path, 4, {"model": net}, optimizer)
    removed = []

    def looks_first(path, **options):
        if path.exists():
            newest = newest_checkpoint(tmp_path)
            assert newest is not None and newest.name == "step-00000004"
            removed.append(path.name)

    monkeypatch.setattr("distill.checkpoint.shutil.rmtree", looks_first)
    save_checkpoint(tmp_path, 4, {"model": net}, optimizer)
    assert [name[:11] for name in removed] == ["partial-old"]


def test_what_cannot_take_its_place_leaves_the_one_that_had_it(tmp_path, monkeypatch):
    net = model()
    optimizer = trained(net)
    path = save_checkpoint(tmp_path, 4, {"model": net}, optimizer)
    rename = Path.rename

    def fails_for_the_new(self, target):
        if self.name.startswith("partial-0"):
            raise OSError(5, "lost")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fails_for_the_new)
    with pytest.raises(OSError, match="cannot be written"):
        save_checkpoint(tmp_path, 4, {"model": net}, optimizer)
    assert newest_checkpoint(tmp_path) == path


def test_another_model_is_refused(tmp_path):
    net = model()
    path = save_checkpoint(tmp_path, 1, {"model": net}, trained(net))
    other = model(5)
    with pytest.raises(ValueError, match="holds another model"):
        load_checkpoint(path, {"model": other}, trained(other))


def test_an_interrupted_save_leaves_the_old_one(tmp_path, monkeypatch):
    net = model()
    optimizer = trained(net)
    save_checkpoint(tmp_path, 4, {"model": net}, optimizer)

    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("distill.checkpoint.save_file", fail)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(tmp_path, 8, {"model": net}, optimizer)
    newest = newest_checkpoint(tmp_path)
    assert newest is not None and newest.name == "step-00000004"
