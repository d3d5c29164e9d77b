"""In which order `pack` takes rows: shuffled, in bounded memory, the same each time.

Parts (row groups, tars, ...) are shuffled; then as many neighbours as fit into `WINDOW_BYTES` are
listed together and their rows shuffled. An input of one part is shuffled as a whole.
"""

import random
from collections.abc import Iterator, Sequence
from itertools import islice

from reinforced_data.packing.listing import Listed, Part

WINDOW_BYTES = 1 << 28


def in_order(parts: Sequence[Part], seed: int | None, start: int = 0) -> Iterator[Listed]:
    """Yield the rows from number `start` on.

    Args:
        parts: the input's.
        seed: of the order; None keeps the input's.
        start: how many rows of the same order are left out. Windows that lie before it are not
            listed where their size is known.
    """
    parts = list(parts)
    if seed is not None:
        random.Random(seed).shuffle(parts)
    for number, window in enumerate(_windows(parts)):
        if start and all(part.exact and part.num_rows is not None for part in window):
            rows_before = sum(part.num_rows or 0 for part in window)
            if rows_before <= start:
                start -= rows_before
                continue
        listed: Iterator[Listed] = (row for part in window for row in part.rows())
        if seed is not None:
            rows = list(listed)
            random.Random(f"{seed}/{number}").shuffle(rows)
            # Each row is let go of when it is done: it may hold its picture.
            listed = (rows.pop() for _ in range(len(rows)))
        left_out = sum(1 for _ in islice(listed, start))
        start -= left_out
        yield from listed


def _windows(parts: Sequence[Part]) -> Iterator[list[Part]]:
    window: list[Part] = []
    size = 0
    for part in parts:
        if window and size + part.num_bytes > WINDOW_BYTES:
            yield window
            window, size = [], 0
        window.append(part)
        size += part.num_bytes
    if window:
        yield window
