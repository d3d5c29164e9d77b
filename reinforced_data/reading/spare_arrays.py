"""Big arrays that are used again once nobody holds them.

A step's arrays are of the same few megabytes every time. Given back to the heap, some of them come
from new pages the next time, because what was allocated in between lies in the old ones; and a new
page has to be found and cleared, by the kernel and on a virtual machine by its host as well: 770 of
them for one array of 1024 rows.
"""

import sys

import numpy as np

# Two steps of five teachers; whoever keeps more batches than one gets new arrays.
_KEPT = 32


class SpareArrays:
    """Makes arrays and remembers them. Of one thread; what is in them is never cleared."""

    def __init__(self) -> None:
        """Begin with none."""
        self._arrays: list[np.ndarray] = []

    def take(self, shape: tuple[int, ...], dtype: np.dtype | type) -> np.ndarray:
        """Return an array to be filled, which nobody else has, not even as a view or a tensor."""
        for place, references in enumerate(_references(self._arrays)):
            array = self._arrays[place]
            if references == _ALONE and array.shape == shape and array.dtype == dtype:
                return self._last(self._arrays.pop(place))
        return self._last(np.empty(shape, dtype))

    def _last(self, array: np.ndarray) -> np.ndarray:
        self._arrays = [*self._arrays, array][-_KEPT:]
        return array


def _references(arrays: list[np.ndarray]) -> list[int]:
    """Count who holds each: views and tensors of an array hold it too."""
    return [sys.getrefcount(array) for array in arrays]


# What that says of an array that is in the list and nowhere else differs from Python to Python.
_ALONE = _references([np.empty(0)])[0]
