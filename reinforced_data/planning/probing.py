"""A few hundred samples of a real source, measured: what stage 1 will cost and write per sample.

Nothing is modelled that can be done: pictures are decoded and rendered, towers run, and the rows
are written by `reinforce` itself into a temporary folder. Only the rows of that store are noise of
the right width: what they say does not change how many bytes they take, and the towers' time is
measured apart. Left out: waiting for the network, and what a full disk or a busy machine would do.
"""

import contextlib
import hashlib
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from reinforced_data.codecs.product_quantization import NUM_BYTES, check_width
from reinforced_data.pictures import Picture
from reinforced_data.planning.column_bytes import ColumnBytes, measure_columns, stored_as
from reinforced_data.planning.sample_counts import cut_pieces
from reinforced_data.planning.tower_rates import TowerRates, answering_at_once, time_towers
from reinforced_data.reinforcing import reinforce
from reinforced_data.source import Sample, UnreadableImage, scan_shard
from reinforced_data.store.layout import open_store
from reinforced_data.views import ViewPolicy, render_view, sample_view
from teachers import Ensemble, Preprocess, Teacher

_Drawn = tuple[int, str]  # size and filter: models that share them share pixels


@dataclass(frozen=True, kw_only=True)
class Measurements:
    """What a probe found; all a plan needs to know of source and teachers.

    Attributes:
        samples: of the probe.
        skipped: null rows of the probe by reason.
        num_views, codec, batch_size: as asked for.
        different_texts: captions per sample that a teacher reads: a shard's equal ones are read
            once. Larger shards than the probe's repeat more, so this is an upper bound.
        prepare_seconds: of one core, per sample: read, hash, decode, draw and render all views.
        write_seconds: of one core, per sample: everything but that and the towers.
        shard_seconds: of one core, per shard, whatever is in it.
        towers: the teachers.
        columns: of the store.
    """

    samples: int
    skipped: dict[str, int]
    num_views: int
    codec: str
    batch_size: int
    different_texts: float
    prepare_seconds: float
    write_seconds: float
    shard_seconds: float
    towers: tuple[TowerRates, ...]
    columns: tuple[ColumnBytes, ...]

    def to_json(self) -> dict[str, Any]:
        """Return JSON values; `from_json` reads them back."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "Measurements":
        """Read what `to_json` gave; a TypeError or KeyError where it is something else."""
        towers = tuple(TowerRates(**tower) for tower in content["towers"])
        columns = tuple(ColumnBytes(**column) for column in content["columns"])
        return cls(**{**content, "towers": towers, "columns": columns})


def probe_source(
    shards: Sequence[str],
    *,
    teachers: Sequence[Teacher],
    num_views: int,
    policy: ViewPolicy,
    codec: str,
    captions_from: str | None,
    batch_size: int,
    samples: int,
    seconds: float,
    say: Callable[[str], None] = lambda _: None,
) -> Measurements:
    """Measure the first samples of up to four shards.

    Args:
        shards: the source's.
        teachers: as for `reinforce`.
        num_views, policy, codec, captions_from, batch_size: as for `reinforce`.
        samples: how many to look at.
        seconds: spent on each tower, roughly.
        say: told what is being measured.

    Raises:
        ValueError: no sample of the source can be used, or `reinforce` would refuse an argument.
    """
    members = list(Ensemble(*teachers)) if teachers else []
    for teacher in members if codec in NUM_BYTES else ():
        check_width(codec, teacher.embed_dim, teacher.name)
    settings = {"num_views": num_views, "policy": policy, "captions_from": captions_from}
    with tempfile.TemporaryDirectory(prefix="distill-plan-") as folder:
        say("copying a piece of the source")
        pieces = cut_pieces(shards, samples, Path(folder))
        say("decoding and rendering")
        seen = _prepare(pieces, members, 2 * batch_size, **settings)
        if not seen.usable:
            raise ValueError(
                f"none of {seen.rows} samples of {shards[0]} and others can be used: "
                f"{dict(seen.problems)}"
            )
        towers = []
        for teacher in members:
            say(f"timing {teacher.name}")
            items = seen.of(teacher)
            towers.append(time_towers(teacher, *items, batch_size=batch_size, seconds=seconds))
        say("writing the piece as a store")
        settings |= {"codec": stored_as(codec), "batch_size": batch_size}
        few = cut_pieces(pieces, len(pieces), Path(folder) / "few")
        _write(few, Path(folder) / "warm-up", members, settings)
        least = _write(few, Path(folder) / "few-store", members, settings)
        most = _write(pieces, Path(folder) / "store", members, settings)
        columns = measure_columns(open_store(Path(folder) / "store"), codec)
    row_seconds = most.row_seconds(least)
    return Measurements(
        samples=most.rows,
        skipped=most.skipped,
        num_views=num_views,
        codec=codec,
        batch_size=batch_size,
        different_texts=seen.different_texts / seen.rows,
        prepare_seconds=seen.core_seconds / seen.rows,
        write_seconds=max(0.0, row_seconds - seen.core_seconds / seen.rows),
        shard_seconds=max(0.0, (least.core_seconds - least.rows * row_seconds) / len(pieces)),
        towers=tuple(towers),
        columns=tuple(columns),
    )


@dataclass(frozen=True)
class _Written:
    rows: int
    skipped: dict[str, int]
    core_seconds: float

    def row_seconds(self, least: "_Written") -> float:
        """Of two stores with as many shards, the larger one's rows cost the difference."""
        rows = max(1, self.rows - least.rows)
        return max(0.0, self.core_seconds - least.core_seconds) / rows


def _write(
    pieces: Sequence[str], store: Path, teachers: Sequence[Teacher], settings: dict[str, Any]
) -> _Written:
    """Write a store with towers that cost nothing, and note this process' time."""
    with contextlib.ExitStack() as stack:
        for teacher in teachers:
            stack.enter_context(answering_at_once(teacher))
        began = time.process_time()
        report = reinforce(pieces, store, teachers=teachers, progress=False, **settings)
        return _Written(report.samples, report.skipped, time.process_time() - began)


@dataclass
class _Seen:
    """What a pass over the pieces has found."""

    rows: int = 0
    usable: int = 0
    problems: Counter[str] = field(default_factory=Counter)
    texts: list[str] = field(default_factory=list)
    different_texts: int = 0
    core_seconds: float = 0.0
    pixels: dict[_Drawn, list[np.ndarray]] = field(default_factory=dict)

    def of(self, teacher: Teacher) -> tuple[Sequence[np.ndarray], Sequence[str]]:
        """What a teacher looks at and reads; what it cannot costs nothing."""
        views = self.pixels[_drawn(teacher.preprocess)] if _sees(teacher) else ()
        return views, self.texts if "text" in teacher.modalities else ()


def _sees(teacher: Teacher) -> bool:
    return "image" in teacher.modalities


def _drawn(look: Preprocess) -> _Drawn:
    return look.image_size, look.interpolation


def _prepare(
    pieces: Sequence[str],
    teachers: Sequence[Teacher],
    keep: int,
    *,
    num_views: int,
    policy: ViewPolicy,
    captions_from: str | None,
) -> _Seen:
    """Do in this thread what the threads of `reinforce` do; keep the first views and all texts."""
    looks = {_drawn(t.preprocess): t.preprocess for t in teachers if _sees(t)}
    seen = _Seen(pixels={drawn: [] for drawn in looks})
    for piece in pieces:
        texts: dict[str, None] = {}
        began = time.process_time()
        for sample in scan_shard(piece, captions_from=captions_from):
            seen.rows += 1
            try:
                views = _render(sample, policy, num_views, looks)
            except UnreadableImage as error:
                seen.problems[error.reason] += 1
                continue
            seen.usable += 1
            hashlib.sha256(sample.image)
            texts.update(dict.fromkeys(sample.captions))
            for drawn, pixels in views:
                if len(seen.pixels[drawn]) < keep:
                    seen.pixels[drawn].append(pixels)
        seen.core_seconds += time.process_time() - began
        seen.texts += texts
        seen.different_texts += len(texts)
    return seen


def _render(
    sample: Sample, policy: ViewPolicy, num_views: int, looks: dict[_Drawn, Preprocess]
) -> list[tuple[_Drawn, np.ndarray]]:
    if sample.problem is not None:
        raise UnreadableImage(sample.problem, sample.key)
    picture = Picture(sample.image)
    aspect = picture.width / picture.height
    views = [sample_view(policy, 0, sample.key, index, aspect) for index in range(num_views)]
    return [
        (drawn, render_view(picture, view, look)) for view in views for drawn, look in looks.items()
    ]
