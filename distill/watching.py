"""Bad steps: found before the optimizer takes them, and left out on every process alike.

A step is bad when its loss or gradient norm is not finite, or lies far above what the last steps
had: above the median by `spike_factor` median absolute deviations. A deviation counts as a tenth of
the median at least for losses, so that a smooth run is not judged by its smoothness, and as a half
for gradient norms, whose ordinary outliers clipping takes care of. The judgement reads two numbers
from the device, once a step, after the backward pass. It knows taken steps alone, since the last
change of what is computed, and is kept in checkpoints, so that a resumed run judges as an
undisturbed one.
"""

import math
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

# As shares of the median.
_LEAST_DEVIATIONS = {"loss": 0.1, "grad_norm": 0.5}


@dataclass(frozen=True, kw_only=True)
class WatchConfig:
    """When a step is left out, and when a run gives up.

    Attributes:
        enabled: off, nothing is judged and nothing waits for the device.
        spike_factor: how many deviations above the median are too many.
        window: the median is over this many taken steps.
        min_history: no spike is seen before so many are known.
        max_skips: so many bad steps in a row end the run.
    """

    enabled: bool = True
    spike_factor: float = 20.0
    window: int = 64
    min_history: int = 16
    max_skips: int = 5

    def __post_init__(self) -> None:
        """Refuse what could never or always fire."""
        if self.spike_factor <= 0 or self.max_skips < 1 or not 2 <= self.min_history <= self.window:
            raise ValueError(
                "watch needs spike_factor > 0, max_skips >= 1 and 2 <= min_history <= window, got "
                f"{self}"
            )


class Watch:
    """Judges loss and gradient norm of one step after the other."""

    def __init__(self, config: WatchConfig) -> None:
        """Know nothing yet."""
        self.config = config
        self.skips_in_a_row = 0
        self._taken = {name: deque[float](maxlen=config.window) for name in ("loss", "grad_norm")}

    def judge(self, loss: float, grad_norm: float) -> str | None:
        """Say why this step must not be taken, or None."""
        found = {"loss": loss, "grad_norm": grad_norm}
        for name, value in found.items():
            reason = self._reason(name, value)
            if reason is not None:
                return reason
        return None

    def remember(self, loss: float, grad_norm: float, skipped: bool) -> None:
        """Take what every process agreed on."""
        self.skips_in_a_row = self.skips_in_a_row + 1 if skipped else 0
        if not skipped:
            self._taken["loss"].append(loss)
            self._taken["grad_norm"].append(grad_norm)

    def begin_anew(self) -> None:
        """Forget what was usual: from here on other tokens are computed, or all of them."""
        for known in self._taken.values():
            known.clear()

    def _reason(self, name: str, value: float) -> str | None:
        if not math.isfinite(value):
            return f"{name} is {value}"
        known = self._taken[name]
        if len(known) < self.config.min_history:
            return None
        middle = median(known)
        deviation = median(abs(other - middle) for other in known)
        least = max(_LEAST_DEVIATIONS[name] * abs(middle), 1e-12)
        limit = middle + self.config.spike_factor * max(deviation, least)
        if value <= limit:
            return None
        return f"{name} {value:.4g} is above {limit:.4g} (median of {len(known)}: {middle:.4g})"

    def as_json(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        lists = {name: list(values) for name, values in self._taken.items()}
        return {**lists, "skips_in_a_row": self.skips_in_a_row}

    def restore(self, values: Mapping[str, Any]) -> None:
        """Go on from `as_json`."""
        for name, known in self._taken.items():
            known.extend(values[name])
        self.skips_in_a_row = values["skips_in_a_row"]


class RunningStatistics:
    """BatchNorm's running statistics, to be put back when a step is left out."""

    def __init__(self, module: nn.Module) -> None:
        """Find the buffers."""
        self._buffers: list[Tensor] = [
            buffer
            for norm in module.modules()
            if getattr(norm, "track_running_stats", False)
            for buffer in norm.buffers(recurse=False)
        ]
        self._kept: list[Tensor] = []

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Remember them for the length of a step."""
        self._kept = [buffer.clone() for buffer in self._buffers]
        yield
        self._kept = []

    @torch.no_grad()
    def put_back(self) -> None:
        """Undo what this step's forward did to them."""
        for buffer, before in zip(self._buffers, self._kept, strict=True):
            buffer.copy_(before)
