"""Source samples to rendered views, in threads ahead of the teachers."""

import hashlib
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from reinforced_data.cores import own_cores
from reinforced_data.pictures import Picture
from reinforced_data.plan import Plan
from reinforced_data.source import Sample, UnreadableImage
from reinforced_data.store.column_rows import IndexRow, ViewRows
from reinforced_data.views import View, render_view, sample_view
from teachers import Preprocess

Item = TypeVar("Item")
Result = TypeVar("Result")

_MOST_THREADS = 8


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """One sample, ready for the teachers.

    Attributes:
        row: its row of the index.
        captions: the source's texts.
        views: its views, none when it cannot be used.
        pixels: per view, the picture for each preprocessing.
        problem: why it cannot be used, or None.
    """

    row: IndexRow
    captions: tuple[str, ...] = ()
    views: tuple[View, ...] = ()
    pixels: tuple[dict[Preprocess, np.ndarray], ...] = ()
    problem: str | None = None


class Preparer:
    """Decodes, draws views (or reads those in the store) and renders them."""

    def __init__(self, plan: Plan, stored: ViewRows | None, looks: Iterable[Preprocess]) -> None:
        """Remember what to render for; `stored` are the shard's views where committed."""
        self._plan = plan
        self._stored = stored
        self._looks = tuple(looks)

    def __call__(self, row: int, sample: Sample) -> Prepared:
        """Prepare the sample in row `row`."""
        nothing = IndexRow(key=sample.key)
        if sample.problem is not None:
            return Prepared(row=nothing, problem=sample.problem)
        try:
            picture = Picture(sample.image)
            views = self._views(row, sample.key, picture.width / picture.height)
            pixels = tuple(self._render(picture, view) for view in views)
            picture.check()
        except UnreadableImage as error:
            return Prepared(row=nothing, problem=error.reason)
        return Prepared(
            row=IndexRow(
                key=sample.key,
                offset=sample.offset,
                size=sample.size,
                width=picture.width,
                height=picture.height,
                sha256=hashlib.sha256(sample.image).digest(),
            ),
            captions=sample.captions,
            views=views,
            pixels=pixels,
        )

    def _views(self, row: int, key: str, aspect: float) -> tuple[View, ...]:
        if self._stored is not None:
            return tuple(self._stored.views(row)) if row < self._stored.num_rows else ()
        plan = self._plan
        return tuple(
            sample_view(plan.policy, plan.seed, key, index, aspect, plan.render_version)
            for index in range(plan.num_views)
        )

    def _render(self, picture: Picture, view: View) -> dict[Preprocess, np.ndarray]:
        # Models of one size and filter see the same pixels; mean and std come later.
        drawn: dict[tuple[int, str], np.ndarray] = {}
        for look in self._looks:
            size_and_filter = (look.image_size, look.interpolation)
            if size_and_filter not in drawn:
                drawn[size_and_filter] = render_view(picture, view, look)
        return {look: drawn[look.image_size, look.interpolation] for look in self._looks}


def in_threads(
    function: Callable[[int, Item], Result], items: Iterable[Item], ahead: int = 0
) -> Generator[Result, None, None]:
    """Yield function(i, item) in order; Pillow lets go of the GIL.

    At least `ahead` items are in work or waiting, so that threads have something to do while
    whoever takes the results is busy with that many.
    """
    threads = own_cores(most=_MOST_THREADS)
    waiting: deque[Future[Result]] = deque()
    pool = ThreadPoolExecutor(threads)
    try:
        for number, item in enumerate(items):
            waiting.append(pool.submit(function, number, item))
            if len(waiting) > max(ahead, 2 * threads):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
