"""How many samples a source has, and a small piece of it: neither needs a whole read.

A tar has no table of contents, so counting means to go from header to header. Where that takes
longer than a few seconds, or the shards are remote, some of them speak for the rest by their bytes.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fsspec.implementations.local import LocalFileSystem

from reinforced_data.locations import locate
from reinforced_data.shard_reader import sample_starts

_END_OF_ARCHIVE = bytes(1024)
# Of four shards on, the error can be told; a piece of each is read.
_PIECES = 4


@dataclass(frozen=True, kw_only=True)
class SampleCount:
    """A source's samples, unusable ones included.

    Attributes:
        samples: how many, or about how many.
        counted: whether every shard was; otherwise the shards' bytes stand for their samples.
        error: one standard error of `samples`; 0 when counted.
        shards: of the source.
        shards_counted: how many of them were.
    """

    samples: int
    counted: bool
    error: float
    shards: int
    shards_counted: int


def shards_to_look_at(num_shards: int) -> list[int]:
    """Up to four shards, spread over the source: its parts may differ."""
    looked = min(_PIECES, num_shards)
    return sorted({place * num_shards // looked for place in range(looked)})


def count_samples(shards: Sequence[str], sizes: Sequence[int], *, seconds: float) -> SampleCount:
    """Count the samples of as many shards as time allows, and estimate the others.

    With n_i samples in b_i bytes of the m shards that were counted, of M: the rest has
    (bytes of the rest) * sum(n) / sum(b), with the ratio estimator's standard error,
    sqrt(1 / m - 1 / M) * std(n_i - b_i * sum(n) / sum(b)) * M.

    Args:
        shards: paths or URLs.
        sizes: their bytes.
        seconds: when to stop counting. The first few are counted however long it takes.
    """
    first = shards_to_look_at(len(shards))
    local = isinstance(locate(shards[0])[0], LocalFileSystem)
    others = [shard for shard in range(len(shards)) if shard not in set(first)] if local else []
    found: dict[int, int] = {}
    started = time.perf_counter()
    for shard in [*first, *others]:
        if len(found) >= len(first) and time.perf_counter() - started > seconds:
            break
        found[shard] = sum(1 for _ in sample_starts(shards[shard]))
    total, read = sum(found.values()), sum(sizes[shard] for shard in found)
    density = total / max(1, read)
    counted, shards_counted = len(found) == len(shards), len(found)
    error = 0.0
    if not counted and shards_counted > 1:
        residuals = [count - density * sizes[shard] for shard, count in found.items()]
        variance = sum(r**2 for r in residuals) / (shards_counted - 1)
        error = math.sqrt(variance * (1 / shards_counted - 1 / len(shards))) * len(shards)
    return SampleCount(
        samples=total if counted else round(density * sum(sizes)),
        counted=counted,
        error=error,
        shards=len(shards),
        shards_counted=shards_counted,
    )


def cut_pieces(shards: Sequence[str], samples: int, folder: Path) -> list[str]:
    """Copy the beginnings of a few shards, `samples` in all, as shards of their own.

    Members are copied byte for byte; a source with fewer samples is copied whole. Shards that
    cannot be read give nothing.

    Returns:
        Paths in `folder`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    looked = shards_to_look_at(len(shards))
    pieces: list[str] = []
    for place, shard in enumerate(looked):
        wanted = samples * (place + 1) // len(looked) - samples * place // len(looked)
        piece = folder / f"{place:05d}.tar"
        if wanted and _cut(shards[shard], wanted, piece):
            pieces.append(str(piece))
    return pieces


def _cut(shard: str, samples: int, out: Path) -> bool:
    end, found = None, 0
    for start in sample_starts(shard):
        if found == samples:
            end = start
            break
        found += 1
    if not found:
        return False
    fs, inner = locate(shard)
    content = fs.cat_file(inner, start=0, end=end)
    out.write_bytes(content if end is None else content + _END_OF_ARCHIVE)
    return True
