"""The batch of a step is the run's, however many processes and micro-batches compute it."""

import os
import shutil
from dataclasses import replace
from itertools import chain
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from distill import Objective, train
from distill.config import DataConfig, OptimizerConfig, RunConfig, ScheduleConfig
from distill.run_log import read_log
from distill.testing import end, start
from reinforced_data import open_dataset, reinforce
from reinforced_data.testing import TOKENIZER, TinyEncoder, tiny_teacher, write_source
from students import build_student

RUN = RunConfig(
    data=DataConfig(batch_size=12, micro_batch_size=4, num_workers=0),  # three micro-batches
    objective=Objective(contrastive=0.3, affinity=0.7, feature=1.0, fastclip=0.5),
    # A large epsilon: Adam divides rounding errors by themselves where gradients vanish.
    optimizer=OptimizerConfig(lr=1e-2, eps=1e-3),
    schedule=ScheduleConfig(num_steps=8, warmup_steps=1),
    log_every=1,
    save_every=4,
)


def learner():
    return build_student(TinyEncoder(seed=5), image_size=16, tokenizer=TOKENIZER)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A store, and the run that one process does in micro-batches of four."""
    folder = tmp_path_factory.mktemp("global-batch")
    source = write_source(folder / "source", 40, samples_per_shard=7)
    reinforce(source, folder / "store", teachers=tiny_teacher(), num_views=2, progress=False)
    train(learner(), folder / "store", recipe=RUN, out=folder / "one", show=False)
    return folder


def work(rank: int, folder: str) -> None:
    """One of two processes that go on from another's fourth step, in micro-batches of five."""
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "ACCELERATE_USE_CPU": "true"}
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2
    )
    config = replace(RUN, data=replace(RUN.data, micro_batch_size=5))
    train(learner(), f"{folder}/store", recipe=config, out=f"{folder}/two", show=False)
    torch.distributed.destroy_process_group()


def test_one_process_then_two_train_on_the_same_batches_to_the_same_student(world):
    name = "checkpoints/step-00000004"
    shutil.copytree(world / "one" / name, world / "two" / name)
    shutil.copy(world / "one" / "config.json", world / "two")
    processes = [start(work, rank, str(world)) for rank in range(2)]
    assert [end(process) for process in processes] == [0, 0]
    one, two = (load_file(world / run / "model.safetensors") for run in ("one", "two"))
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, rtol=0, atol=2e-6)
    assert (
        max((value - learner().module.state_dict()[key]).abs().max() for key, value in one.items())
        > 1e-3
    )
    first, second = (
        {r["step"]: r["loss/total"] for r in read_log(world / run) if "loss/total" in r}
        for run in ("one", "two")
    )
    assert list(second) == [5, 6, 7, 8]
    assert all(second[step] == pytest.approx(first[step], abs=1e-5) for step in second)


@pytest.mark.parametrize("processes", [2, 3, 4])
def test_the_parts_of_all_processes_are_the_batch(world, processes):
    def keys(rank: int, size: int) -> list[list[str]]:
        loader = open_dataset(world / "store").loader(
            preprocess=learner().preprocess,
            tokenizer=TOKENIZER,
            batch_size=12,
            num_steps=6,
            start_step=2,
            rank=rank,
            world_size=size,
        )
        return [batch.keys for batch in loader]

    parts = [keys(rank, processes) for rank in range(processes)]
    assert [list(chain(*step)) for step in zip(*parts, strict=True)] == keys(0, 1)


def test_a_batch_that_the_processes_cannot_divide_is_refused(world):
    with pytest.raises(ValueError, match="must be a multiple of world_size: got 12"):
        open_dataset(world / "store").loader(
            preprocess=None, tokenizer=None, batch_size=12, num_steps=1, rank=0, world_size=5
        )


def test_another_batch_size_is_another_run(world, tmp_path):
    shutil.copytree(world / "one", tmp_path / "one")
    other = replace(RUN, data=replace(RUN.data, batch_size=8))
    with pytest.raises(ValueError, match=r"data.batch_size: 12 -> 8"):
        train(learner(), world / "store", recipe=other, out=tmp_path / "one", show=False)
    assert Path(tmp_path / "one" / "model.safetensors").is_file()
