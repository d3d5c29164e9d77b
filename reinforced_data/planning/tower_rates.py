"""What a teacher's towers cost: seconds per view and per text, each timed by itself.

The towers run on what they will run on (real views, real captions, the batches of `reinforce`),
with nothing beside them. The first call is not timed: it allocates, compiles and tunes.
"""

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from reinforced_data.embedding import ImageEmbedder, embed_texts
from teachers import ClipModel

# So few that even a large teacher on a CPU answers soon; enough to tell whether a batch would.
_FIRST = 4


@dataclass(frozen=True, kw_only=True)
class TowerRates:
    """One teacher.

    Attributes:
        teacher, device: its name, and the type of device it was timed on.
        image_seconds, text_seconds: of the device, per view and per text.
        image_core_seconds, text_core_seconds: of this process' processor time, likewise. On a GPU
            that is mostly waiting.
        views, texts: how many were timed.
    """

    teacher: str
    device: str
    image_seconds: float
    text_seconds: float
    image_core_seconds: float
    text_core_seconds: float
    views: int
    texts: int


@dataclass(frozen=True)
class _Rate:
    seconds: float
    core_seconds: float
    items: int


def time_towers(
    teacher: ClipModel,
    views: Sequence[UInt8[np.ndarray, "size size 3"]],
    texts: Sequence[str],
    *,
    batch_size: int,
    seconds: float,
) -> TowerRates:
    """Time both towers on these views and texts, over and over, about `seconds` each.

    Where one batch alone would take longer, smaller ones are timed. Without views, or without
    texts, that tower costs nothing.
    """

    def see(batch: Sequence[np.ndarray]) -> None:
        embedder = ImageEmbedder(teacher, len(batch))
        for view in batch:
            embedder.add(view)
        embedder.finish()

    def read(batch: Sequence[str]) -> None:
        embed_texts(teacher, batch, len(batch))

    image = _time(teacher, "encode_image", see, views, batch_size, seconds)
    text = _time(teacher, "encode_text", read, texts, batch_size, seconds)
    return TowerRates(
        teacher=teacher.name,
        device=teacher.device.type,
        image_seconds=image.seconds / max(1, image.items),
        text_seconds=text.seconds / max(1, text.items),
        image_core_seconds=image.core_seconds / max(1, image.items),
        text_core_seconds=text.core_seconds / max(1, text.items),
        views=image.items,
        texts=text.items,
    )


def _time(
    teacher: ClipModel,
    method: str,
    run: Callable[[Sequence[Any]], None],
    items: Sequence[Any],
    batch_size: int,
    seconds: float,
) -> _Rate:
    if not items:
        return _Rate(0.0, 0.0, 0)
    spent: list[_Rate] = []
    with _watched(teacher, method, spent):
        run(items[:_FIRST])
        run(items[:_FIRST])
        few, size = spent[-1], min(batch_size, len(items))
        if few.seconds / few.items * size > seconds:
            return few
        run(items[:size])  # the device meets this shape for the first time
        del spent[:]
        batches = range(0, len(items) - size + 1, size)
        for start in itertools.cycle(batches):
            run(items[start : start + size])
            if sum(rate.seconds for rate in spent) >= seconds:
                break
    return _Rate(
        sum(rate.seconds for rate in spent),
        sum(rate.core_seconds for rate in spent),
        sum(rate.items for rate in spent),
    )


@contextlib.contextmanager
def _watched(teacher: ClipModel, method: str, spent: list[_Rate]) -> Iterator[None]:
    """Note what each call of a tower costs, until the device is done with it."""
    encode = getattr(teacher.module, method)

    def timed(batch: Tensor) -> Tensor:
        began, core = time.perf_counter(), time.process_time()
        rows = encode(batch)
        if rows.is_cuda:
            torch.cuda.synchronize(rows.device)
        spent.append(_Rate(time.perf_counter() - began, time.process_time() - core, len(batch)))
        return rows

    with _replaced(teacher, method, timed):
        yield


@contextlib.contextmanager
def answering_at_once(teacher: ClipModel) -> Iterator[None]:
    """Let both towers give rows of noise: the right width at no cost, so that the rest shows."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(4096, teacher.embed_dim, generator=generator).to(teacher.device)

    def rows(batch: Tensor) -> Tensor:
        return noise[torch.arange(len(batch)) % len(noise)]

    with _replaced(teacher, "encode_image", rows), _replaced(teacher, "encode_text", rows):
        yield


@contextlib.contextmanager
def _replaced(
    teacher: ClipModel, method: str, function: Callable[[Tensor], Tensor]
) -> Iterator[None]:
    """Put a function in a module's place of a method for a while."""
    own = vars(teacher.module).get(method)
    setattr(teacher.module, method, function)
    try:
        yield
    finally:
        if own is None:
            delattr(teacher.module, method)
        else:
            setattr(teacher.module, method, own)
