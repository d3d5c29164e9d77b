"""A run's time: training without evaluations, and how much of it went by waiting for data."""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

Item = TypeVar("Item")


class Clock:
    """Starts when it is made."""

    def __init__(self) -> None:
        """Start."""
        self._started, self._left_out = time.perf_counter(), 0.0
        self._waited = 0.0
        self._looked = (self._started, 0.0)

    def seconds(self) -> float:
        """Seconds of training, evaluations left out."""
        return time.perf_counter() - self._started - self._left_out

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Leave a while out."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self._left_out += time.perf_counter() - began

    def waiting(self, items: Iterable[Item]) -> Iterator[Item]:
        """Yield the items; the time until each one comes is waiting. The first is start-up."""
        iterator, first = iter(items), True
        while True:
            began = time.perf_counter()
            try:
                item = next(iterator)
            except StopIteration:
                return
            self._waited += 0.0 if first else time.perf_counter() - began
            first = False
            yield item

    def share_waited(self) -> float:
        """The share of time spent waiting since this was last asked."""
        before, waited_before = self._looked
        self._looked = (time.perf_counter(), self._waited)
        return (self._waited - waited_before) / max(self._looked[0] - before, 1e-9)
