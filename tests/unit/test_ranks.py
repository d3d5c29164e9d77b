"""Which process this is, by what launchers put in the environment."""

import pytest
import torch

from reinforced_data import cores
from reinforced_data.cores import own_cores
from reinforced_data.ranks import own_device, processes_here, rank_and_world_size


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, (0, 1)),
        ({"RANK": "3", "WORLD_SIZE": "8"}, (3, 8)),
        ({"SLURM_PROCID": "2", "SLURM_NTASKS": "4"}, (2, 4)),
        # accelerate inside srun: its own numbers count, srun's are those of whole machines.
        ({"RANK": "5", "WORLD_SIZE": "8", "SLURM_PROCID": "1", "SLURM_NTASKS": "2"}, (5, 8)),
        # --array=0-9
        ({"SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_COUNT": "10"}, (7, 10)),
        # --array=10-40:10, and srun with two tasks in each
        (
            {
                "SLURM_ARRAY_TASK_ID": "30",
                "SLURM_ARRAY_TASK_MIN": "10",
                "SLURM_ARRAY_TASK_STEP": "10",
                "SLURM_ARRAY_TASK_COUNT": "4",
                "SLURM_PROCID": "1",
                "SLURM_NTASKS": "2",
            },
            (5, 8),
        ),
        # One task of an array that was given again by hand has no neighbours.
        ({"SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_COUNT": "1"}, (7, 8)),
        ({"RANK": "2", "WORLD_SIZE": ""}, (0, 1)),
    ],
)
def test_rank_and_world_size(environment, expected):
    assert rank_and_world_size(environment) == expected


def test_what_is_no_number_is_named():
    with pytest.raises(ValueError, match="RANK='three'"):
        rank_and_world_size({"RANK": "three", "WORLD_SIZE": "8"})


def test_each_process_has_its_own_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert own_device("cuda", {"LOCAL_RANK": "2"}) == "cuda:2"
    assert own_device("cuda", {"SLURM_LOCALID": "5"}) == "cuda:1"
    assert own_device("cuda", {}) == "cuda"
    assert own_device("cuda:0", {"LOCAL_RANK": "2"}) == "cuda:0"
    assert own_device("cpu", {"LOCAL_RANK": "2"}) == "cpu"


def test_threads_are_this_processs_share_of_the_cores_that_it_may_use(monkeypatch, tmp_path):
    assert processes_here({}) == 1 and processes_here({"LOCAL_WORLD_SIZE": "4"}) == 4
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    monkeypatch.setattr(cores.os, "sched_getaffinity", lambda _: set(range(64)))
    monkeypatch.setattr(cores, "_CPU_QUOTA", tmp_path / "cpu.max")
    assert own_cores(8) == 8
    (tmp_path / "cpu.max").write_text("600000 100000")
    assert own_cores(8) == 6
    for processes, threads in (("4", 1), ("2", 3), ("100", 1)):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
        assert own_cores(8) == threads
