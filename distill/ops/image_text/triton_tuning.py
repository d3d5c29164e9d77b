"""Which tiling is fastest here: timed once per device, dtype, shape and kind, kept in a file.

The file is `tilings.json` in the user's cache folder (`$XDG_CACHE_HOME/clip-distill`), written
atomically; `CLIP_DISTILL_TILINGS` names another, or is "off": then the first candidate is taken.
Equal bits in two runs need equal tilings, so keep the file or turn timing off. Nothing is timed in
the interpreter, inside a CUDA graph's capture, or for batches too small for it to matter.
"""

import json
import logging
import os
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Literal

import torch
import triton

from distill.ops.image_text.triton_launch import Operands
from distill.ops.image_text.triton_sweeps import (
    Vectors,
    sigmoid_pairs,
    softmax_gradient,
    softmax_sums,
)
from distill.ops.image_text.triton_tiling import CANDIDATES, Tiling, candidates

Sweep = Literal["sums", "gradients"]

SMALLEST_TIMED = 2048  # rows; below, launches dominate
LARGEST_TIMED = 8192  # rows; a sweep is as many super-tiles of this size as it takes
REPEATS = 5

_log = logging.getLogger(__name__)
_known: dict[str, Tiling] = {}


def tiling_for(operands: Operands, sweep: Sweep) -> Tiling:
    """The tiling to run `sweep` with: known, timed now, or the first candidate."""
    if not _worth_timing(operands):
        return CANDIDATES[0]
    key = _key(operands, sweep)
    if key not in _known:
        path = tilings_file()
        kept = read_tilings(path)
        if key not in kept:
            _log.info("timing tilings for %s (once; kept in %s)", key, path)
            keep_tiling(path, key, fastest(operands, sweep))
            kept = read_tilings(path)
        _known[key] = kept[key]
    return _known[key]


def tilings_file() -> Path:
    """Where tilings are kept."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("CLIP_DISTILL_TILINGS") or folder / "clip-distill" / "tilings.json")


def read_tilings(path: Path) -> dict[str, Tiling]:
    """All that is kept in a file; a file that is not there or not ours has nothing."""
    if not path.exists():
        return {}
    try:
        return {key: Tiling(**fields) for key, fields in json.loads(path.read_text()).items()}
    except (ValueError, TypeError, AttributeError) as reason:
        _log.warning("%s is no file of tilings (%s); timing anew", path, reason)
        return {}


def keep_tiling(path: Path, key: str, tiling: Tiling) -> None:
    """Add one tiling to a file. Processes may do so at once: the file is whole at any time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = {**read_tilings(path), key: tiling}
    text = json.dumps({name: asdict(kept[name]) for name in sorted(kept)}, indent=1)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".json", delete=False) as file:
        file.write(text)
    os.replace(file.name, path)


def fastest(operands: Operands, sweep: Sweep) -> Tiling:
    """Time the candidates on one super-tile of the user's own rows."""
    operands = _head(operands)
    times = {}
    for tiling in candidates(len(operands.lefts)):
        try:
            times[tiling] = _milliseconds(sweep_once(operands, sweep, tiling))
        except triton.runtime.errors.OutOfResources:
            _log.info("this device has too little shared memory or registers for %s", tiling)
    if not times:
        raise RuntimeError(f"no tiling fits {torch.cuda.get_device_name()}; use impl='tiled'")
    return min(times, key=lambda tiling: times[tiling])


def _worth_timing(operands: Operands) -> bool:
    left = operands.lefts[0]
    return (
        left.is_cuda
        and min(operands.shape) >= SMALLEST_TIMED
        and os.environ.get("CLIP_DISTILL_TILINGS") != "off"
        and not torch.cuda.is_current_stream_capturing()
    )


def _key(operands: Operands, sweep: Sweep) -> str:
    """Everything that the choice may hang on. Rows count up to the next power of two."""
    left = operands.lefts[0]
    rows = [min(2 ** (n - 1).bit_length(), LARGEST_TIMED) for n in operands.shape]
    return " ".join(
        [
            torch.cuda.get_device_name(left.device).replace(" ", "-"),
            f"torch-{torch.__version__} triton-{triton.__version__} {sweep}",
            "sigmoid" if operands.sigmoid else "softmax",
            "ids" if operands.row_ids is not None else "diagonal",
            "negatives" if operands.negatives else "all",
            "+".join(f"{str(x.dtype).removeprefix('torch.')}:{x.shape[1]}" for x in operands.lefts),
            f"{rows[0]}x{rows[1]}",
        ]
    )


def _head(operands: Operands) -> Operands:
    """The problem's first rows: one super-tile."""

    def cut(parts: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return tuple(part[:LARGEST_TIMED] for part in parts)

    lefts, rights = cut(operands.lefts), cut(operands.rights)
    if operands.row_ids is None or operands.column_ids is None:
        return replace(operands, lefts=lefts, rights=rights)
    row_ids, column_ids = cut((operands.row_ids, operands.column_ids))
    return replace(operands, lefts=lefts, rights=rights, row_ids=row_ids, column_ids=column_ids)


def sweep_once(operands: Operands, sweep: Sweep, tiling: Tiling) -> Callable[[], object]:
    """One call of the sweep with a tiling; coefficients are any."""
    like, sizes = operands.scales, operands.shape
    if operands.sigmoid:
        weights = torch.ones_like(like)
        shares = like.new_ones(sizes[0]), like.new_ones(sizes[1])
        upstream = None if sweep == "sums" else like.new_ones(2)
        values = sweep == "sums" or len(like) == 1  # as one_sweep does
        return lambda: sigmoid_pairs(operands, tiling, weights, shares, upstream, values)
    if sweep == "sums":
        return lambda: softmax_sums(operands, tiling)
    sides = []
    for found in softmax_sums(operands, CANDIDATES[0]):
        ones = torch.ones_like(found.log_sums)
        sides.append(Vectors(ones[0], ones, found.log_sums, ones.sum()))
    return lambda: softmax_gradient(operands, tiling, *sides)


def _milliseconds(run: Callable[[], object]) -> float:
    """Median time of a call on the GPU, after two calls that compile and warm up."""
    times = []
    for repeat in range(REPEATS + 2):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        end.record()
        end.synchronize()
        if repeat >= 2:
            times.append(start.elapsed_time(end))
    return statistics.median(times)
