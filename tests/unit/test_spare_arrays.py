"""Arrays that a step takes over from an earlier one, and never from somebody who still reads it."""

import numpy as np
import pytest
import torch

from reinforced_data import open_dataset
from reinforced_data.reading.spare_arrays import SpareArrays
from reinforced_data.testing import TOKENIZER
from reinforced_data.testing_stores import synthetic_store


@pytest.mark.parametrize(
    "shown",
    [
        lambda array: array[1:][:, :1],
        lambda array: torch.from_numpy(array[:]).view(-1)[2:],
    ],
    ids=["view", "tensor"],
)
def test_an_array_is_used_again_once_nobody_holds_it(shown):
    spare = SpareArrays()
    first = spare.take((3, 2), np.float32)
    place, holder = first.ctypes.data, shown(first)
    del first
    assert spare.take((3, 2), np.float32).ctypes.data != place
    del holder
    assert spare.take((3, 2), np.float32).ctypes.data == place


def test_an_array_fits_by_shape_and_kind():
    spare = SpareArrays()
    for shape, kind in (((3, 2), np.float32), ((2, 3), np.float32), ((3, 2), np.int32)):
        array = spare.take(shape, kind)
        assert (array.shape, array.dtype) == (shape, kind)


def test_of_arrays_that_stay_held_only_the_last_are_remembered():
    spare = SpareArrays()
    held = [spare.take((4,), np.int64) for _ in range(100)]
    assert len({array.ctypes.data for array in held}) == 100
    assert len(spare._arrays) == 32


def test_batches_that_are_kept_stay_as_they_were(tmp_path):
    store = synthetic_store(tmp_path, num_shards=2, shard_rows=64)
    settings = {"preprocess": None, "tokenizer": TOKENIZER, "batch_size": 16, "num_steps": 12}

    batches = open_dataset(store).loader(**settings).dataset
    read, copies, places = [], [], set()
    for step in range(12):
        ((teacher,),) = batches.embeddings(batches.rows(step))
        places.add(teacher.image.data_ptr())
        if step % 3 == 0:
            read.append((teacher.image, teacher.text))
            copies.append((teacher.image.clone(), teacher.text.clone()))
    assert len(places) < 12, "nothing was used again: the test shows nothing"
    for kept, copied in zip(read, copies, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(kept, copied, strict=True))
