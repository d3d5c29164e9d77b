"""How big and how fast a student is: tower by tower, as it trains and as it ships.

Protocol of the times: evaluation mode, no gradient, float32 as it stands; `warmup` unmeasured
calls, then `repeats` calls timed one by one; median and 95th percentile. Multiplications and memory
are counted, not timed: the same on every machine. A phone's numbers come from its own runtime:
`export` reports ONNX Runtime's.
"""

import statistics
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import FlopCounterMode

from students.student import Student, Tower


@dataclass(frozen=True, kw_only=True)
class TowerProfile:
    """One tower in one form.

    Attributes:
        tower: whose numbers these are.
        form: "training", or "inference": train-time branches folded (reparameterised).
        params: learned numbers of the tower.
        bytes: what its weights take.
        macs: multiplications with an addition, in millions, for one picture or one text; of
            matrix products and convolutions alone, as is usual.
        peak_bytes: the most that a batch's activations take at one moment, weights aside; without
            the working memory that single operations may use inside.
        latency_ms: median time of a batch.
        latency_p95_ms: its 95th percentile.
        memory_bytes: the peak of a process of its own, where one was (`exporters.profiling`).
    """

    tower: Literal["image", "text"]
    form: Literal["training", "inference"]
    params: int
    bytes: int
    macs: float
    peak_bytes: int
    latency_ms: float
    latency_p95_ms: float
    memory_bytes: int | None = None


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Sizes and times of a student.

    Attributes:
        towers: four rows; image and text, each in its training and its inference form.
        batch_size: rows a batch.
        threads: CPU threads used.
        warmup: unmeasured calls before.
        repeats: timed calls a row.
        device: where it ran.
    """

    towers: tuple[TowerProfile, ...]
    batch_size: int
    threads: int
    warmup: int
    repeats: int
    device: str

    def of(self, tower: str, form: str = "inference") -> TowerProfile:
        """Return one of the rows."""
        return next(row for row in self.towers if (row.tower, row.form) == (tower, form))


def profile(
    student: Student, *, batch_size: int = 1, threads: int = 1, warmup: int = 3, repeats: int = 20
) -> Profile:
    """Measure a student; it is left as it was.

    Raises:
        ValueError: batch_size, threads or repeats is below 1.
    """
    if min(batch_size, threads, repeats) < 1:
        raise ValueError(
            f"batch_size, threads and repeats must be at least 1, got {batch_size}, {threads} "
            f"and {repeats}"
        )
    size = student.preprocess.image_size
    pixels = torch.rand(batch_size, 3, size, size, device=student.device)
    tokens = student.tokenizer(["a photo of a cat"] * batch_size).to(student.device)
    folded, training = student.reparameterize(), student.module.training
    threads_before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        student.module.eval()
        rows = [
            _measure(model, form, tower, inputs, warmup, repeats)
            for tower, inputs in (("image", pixels), ("text", tokens))
            for form, model in (("training", student), ("inference", folded))
        ]
    finally:
        student.module.train(training)
        torch.set_num_threads(threads_before)
    return Profile(
        towers=tuple(rows),
        batch_size=batch_size,
        threads=threads,
        warmup=warmup,
        repeats=repeats,
        device=str(student.device),
    )


def _measure(
    model: Student, form: Any, tower: Any, inputs: Tensor, warmup: int, repeats: int
) -> TowerProfile:
    module: Tower = model.image_tower if tower == "image" else model.text_tower
    weights = list(module.parameters())
    with torch.inference_mode():
        macs = _flops(module, inputs) / 2 / len(inputs)
        with _ActivationMemory() as memory:
            module(inputs)
        median, p95 = latency_ms(lambda: _wait(module(inputs)), warmup, repeats)
    return TowerProfile(
        tower=tower,
        form=form,
        params=sum(weight.numel() for weight in weights),
        bytes=sum(weight.nbytes for weight in weights),
        macs=macs / 1e6,
        peak_bytes=memory.peak,
        latency_ms=median,
        latency_p95_ms=p95,
    )


def _flops(module: Tower, inputs: Tensor) -> int:
    """Count with attention spelled out: its fused forms are not in the counter's table."""
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            module(inputs)
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
    return counter.get_total_flops()


class _ActivationMemory(TorchDispatchMode):
    """Adds up the memory of tensors that operations make, for as long as something holds them."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._alive = set[int]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {t.untyped_storage()._cdata for t in _tensors((args, kwargs))}
        made = func(*args, **(kwargs or {}))
        for tensor in _tensors(made):
            storage = tensor.untyped_storage()
            if storage._cdata not in given and storage._cdata not in self._alive:
                self._alive.add(storage._cdata)
                self.now += storage.nbytes()
                weakref.finalize(storage, self._free, storage._cdata, storage.nbytes())
        self.peak = max(self.peak, self.now)
        return made

    def _free(self, key: int, size: int) -> None:
        self._alive.discard(key)
        self.now -= size


def _tensors(values: Any) -> list[Tensor]:
    found: list[Tensor] = []
    tree_map_only(Tensor, found.append, values)
    return found


def latency_ms(
    call: Callable[[], object],
    warmup: int = 3,
    repeats: int = 20,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[float, float]:
    """Time a call: median and 95th percentile, in milliseconds of `clock`, which gives seconds."""
    for _ in range(warmup):
        call()
    times = []
    for _ in range(repeats):
        start = clock()
        call()
        times.append((clock() - start) * 1e3)
    return statistics.median(times), sorted(times)[min(repeats - 1, int(0.95 * repeats))]


def _wait(rows: torch.Tensor) -> None:
    """Let a GPU finish; a CPU has."""
    if rows.is_cuda:
        torch.cuda.synchronize(rows.device)
