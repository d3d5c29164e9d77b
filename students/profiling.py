"""How big and how fast a student is, tower by tower, in PyTorch on the device it is on.

Protocol: inference form (branches folded), evaluation mode, no gradient, float32 as it stands;
`warmup` unmeasured calls, then `repeats` calls timed one by one; median and 95th percentile.
A phone's numbers come from its own runtime: `export` reports ONNX Runtime's.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from students.student import Student


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Sizes and times of a student.

    Attributes:
        image_params: learned numbers of the image encoder, in its training form.
        text_params: likewise of the text encoder.
        image_bytes: what the image encoder's weights take once folded.
        text_bytes: likewise of the text encoder.
        image_latency_ms: median time of one batch of pictures.
        image_latency_p95_ms: its 95th percentile.
        text_latency_ms: median time of one batch of texts.
        text_latency_p95_ms: its 95th percentile.
        batch_size: rows a batch.
        threads: CPU threads used.
        repeats: timed calls a tower.
        device: where it ran.
    """

    image_params: int
    text_params: int
    image_bytes: int
    text_bytes: int
    image_latency_ms: float
    image_latency_p95_ms: float
    text_latency_ms: float
    text_latency_p95_ms: float
    batch_size: int
    threads: int
    repeats: int
    device: str


def profile(
    student: Student, *, batch_size: int = 1, threads: int = 1, warmup: int = 3, repeats: int = 20
) -> Profile:
    """Measure a student; it is left as it was."""
    if min(batch_size, threads, repeats) < 1:
        raise ValueError(
            f"batch_size, threads and repeats must be at least 1, got {batch_size}, {threads} "
            f"and {repeats}"
        )
    folded = student.reparameterize()
    size = student.preprocess.image_size
    pixels = torch.rand(batch_size, 3, size, size, device=student.device)
    tokens = folded.tokenizer(["a photo of a cat"] * batch_size).to(student.device)
    threads_before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.inference_mode():
            image = latency_ms(lambda: _wait(folded.encode_image(pixels)), warmup, repeats)
            text = latency_ms(lambda: _wait(folded.encode_text(tokens)), warmup, repeats)
    finally:
        torch.set_num_threads(threads_before)
    return Profile(
        image_params=student.image_params,
        text_params=student.text_params,
        image_bytes=sum(value.nbytes for value in folded.image_tower.parameters()),
        text_bytes=sum(value.nbytes for value in folded.text_tower.parameters()),
        image_latency_ms=image[0],
        image_latency_p95_ms=image[1],
        text_latency_ms=text[0],
        text_latency_p95_ms=text[1],
        batch_size=batch_size,
        threads=threads,
        repeats=repeats,
        device=str(student.device),
    )


def latency_ms(
    call: Callable[[], object], warmup: int = 3, repeats: int = 20
) -> tuple[float, float]:
    """Time a call: median and 95th percentile, in milliseconds."""
    for _ in range(warmup):
        call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times), sorted(times)[min(repeats - 1, int(0.95 * repeats))]


def _wait(rows: torch.Tensor) -> None:
    """Let a GPU finish; a CPU has."""
    if rows.is_cuda:
        torch.cuda.synchronize(rows.device)
