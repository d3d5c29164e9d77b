"""Axes: ticks at round numbers, and the frame that maps values to pixels, linear or logarithmic."""

import math
import xml.etree.ElementTree as ET
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from distill.report.data import Number
from distill.report.svg import add

Format = Callable[[Number], str]


def nice_ticks(low: Number, high: Number, *, most: int = 6) -> list[Number]:
    """Round numbers that cover low..high: steps of 1, 2 or 5 times a power of ten."""
    if not high > low:
        # A flat curve still wants an axis around it.
        pad = abs(low) * 0.1
        # Nothing here is known to be below 0 when all of it is 0.
        low, high = (low - pad, high + pad) if pad else (0.0, 1.0)
    rough = (high - low) / max(1, most - 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    # Rounded, since 3 * 0.1 is not 0.3.
    digits = max(0, 1 - math.floor(math.log10(step)))
    return [round(i * step, digits) for i in range(first, last + 1)]


def log_ticks(low: Number, high: Number) -> list[Number]:
    """1, 2, 5, 10, 20, 50 ... around low..high; over many decades powers of ten alone."""
    start, stop = math.floor(math.log10(low)), math.ceil(math.log10(high))
    if stop - start > 3:
        every = math.ceil((stop - start) / 6)
        return [10.0**power for power in range(start, stop + every, every)]
    steps = [m * 10.0**p for p in range(start - 1, stop + 2) for m in (1, 2, 5)]
    first = max(i for i, step in enumerate(steps) if step <= low * (1 + 1e-9))
    last = min(i for i, step in enumerate(steps) if step >= high * (1 - 1e-9))
    return steps[first : max(last, first + 1) + 1]


def plain(value: Number) -> str:
    """A tick's label without needless digits: 0.25, 3, 1200 -> '1.2k'."""
    if abs(value) >= 1000:
        return f"{value / 1000:g}k"
    return f"{value:g}"


@dataclass(frozen=True, kw_only=True)
class Frame:
    """The rectangle that values are drawn in, in pixels, and the ranges it stands for."""

    left: Number
    top: Number
    right: Number
    bottom: Number
    x_range: tuple[Number, Number]
    y_range: tuple[Number, Number]
    log_x: bool = False

    def x(self, value: Number) -> Number:
        """Pixel of a value on the horizontal axis."""
        low, high = self.x_range
        if self.log_x:
            value, low, high = math.log(value), math.log(low), math.log(high)
        return self.left + (self.right - self.left) * (value - low) / (high - low)

    def y(self, value: Number) -> Number:
        """Pixel of a value on the vertical axis."""
        low, high = self.y_range
        return self.bottom - (self.bottom - self.top) * (value - low) / (high - low)

    def draw_x(self, root: ET.Element, ticks: Sequence[Number], form: Format, title: str) -> None:
        """Vertical grid lines, their labels below and the axis' title at the right end."""
        for tick in ticks:
            at = self.x(tick)
            add(root, "line", class_="grid", x1=at, x2=at, y1=self.top, y2=self.bottom)
            add(root, "text", form(tick), class_="tick mid", x=at, y=self.bottom + 16)
        add(root, "text", title, class_="axis end", x=self.right, y=self.bottom + 34)

    def draw_y(self, root: ET.Element, ticks: Sequence[Number], form: Format, title: str) -> None:
        """Horizontal grid lines, their labels left and the axis' title above."""
        for tick in ticks:
            at = self.y(tick)
            add(root, "line", class_="grid", x1=self.left, x2=self.right, y1=at, y2=at)
            add(root, "text", form(tick), class_="tick end", x=self.left - 8, y=at + 4)
        add(root, "text", title, class_="axis", x=4, y=self.top - 14)
