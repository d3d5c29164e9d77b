"""One pass over one shard of pictures: what was published for each, as rows of a store."""

import contextlib
import hashlib
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa

from reinforced_data.codecs.codec import Codec
from reinforced_data.codecs.of_columns import codec_of
from reinforced_data.datacompdr.index import PublishedIndex, json_fields, uid_in
from reinforced_data.datacompdr.members import Published, Unusable, read_published
from reinforced_data.datacompdr.plan import ImportPlan, TeacherColumns
from reinforced_data.datacompdr.views import NoView, to_view
from reinforced_data.embedding import Rows
from reinforced_data.preparing import in_threads
from reinforced_data.sample_texts import MAX_TEXT_BYTES
from reinforced_data.shard_reader import member_groups, open_binary
from reinforced_data.source import Sample, UnreadableImage, decode_image, scan_shard
from reinforced_data.store.column_rows import (
    IndexRow,
    captions_batch,
    image_batch,
    index_batch,
    text_batch,
    views_batch,
)
from reinforced_data.store.columns import Column
from reinforced_data.store.commits import Skipped
from reinforced_data.store.layout import Store
from reinforced_data.views import View

# Of fewer samples, all may be unusable by bad luck.
_ENOUGH_TO_JUDGE = 4
_ADVICE = {
    "crop-outside-picture": "the pictures are smaller than those that were reinforced. Where the "
    "JSON has original_width and original_height, say crops_of='original' (--crops-of original)",
    "not-published": "nothing was published under these uids or keys. Are these the shards that "
    "belong together?",
    "too-few-views": "fewer views were published; give a smaller num_views (--num-views)",
}


@dataclass(frozen=True, kw_only=True)
class _Row:
    """One sample: its picture, and what was published for it or why that cannot be used."""

    index: IndexRow
    captions: tuple[str, ...] = ()
    problem: str | None = None
    published: Published | None = None
    views: tuple[View, ...] = ()
    unusable: str | None = None
    same_bytes: bool = False


@dataclass
class ImportPass:
    """What stays the same from shard to shard; `same_bytes` counts pictures known to be equal."""

    store: Store
    plan: ImportPlan
    published: PublishedIndex
    on_sample: Callable[[int], None]
    same_bytes: int = 0
    _codecs: dict[str, Codec] = field(default_factory=dict)

    def run(self, shard: int) -> bool:
        """Write the units of a shard that are missing; False when another process was at it too.

        Raises:
            BrokenShard: the source shard is truncated or not a tar.
            ValueError: nothing of the first shard can be used.
        """
        store, plan = self.store, self.plan
        missing = [c for c in plan.columns if store.commit(c, shard) is None]
        if not missing:
            return False
        path = store.sources[shard]
        fields = _json_of_samples(path)
        samples = scan_shard(path, captions_from=plan.captions_from)
        rows = []
        with contextlib.closing(in_threads(_decoded, samples)) as decoded:
            for sample, index, problem in decoded:
                self.on_sample(sample.size)
                rows.append(self._row(sample, index, problem, fields.get(sample.key, {})))
        self._check_first(path, rows)
        self.same_bytes += sum(row.same_bytes for row in rows)
        alone = True
        for column in missing:
            batch, reasons = self._unit(column, rows)
            skipped = [
                Skipped(row=number, key=rows[number].index.key, reason=reason)
                for number, reason in enumerate(reasons)
                if reason is not None
            ]
            alone &= store.write(column, shard, batch, skipped) is not None
        return alone

    def _row(
        self, sample: Sample, index: IndexRow, problem: str | None, fields: Mapping[str, Any]
    ) -> _Row:
        if problem is not None:
            return _Row(index=index, problem=problem)
        row = _Row(index=index, captions=sample.captions)
        try:
            members = self.published.members(uid_in(fields, sample.key))
            if members is None:
                return replace(row, unusable="not-published")
            found = read_published(members)
            views = self._views(found, index, fields)
        except (Unusable, NoView) as error:
            return replace(row, unusable=error.reason)
        assert index.sha256 is not None
        same = found.sha256 == index.sha256.hex()
        # Copies: a slice would keep all published views in memory.
        kept = replace(found, image=found.image[: self.plan.num_views].copy(), parameters=[])
        return replace(row, published=kept, views=views, same_bytes=same)

    def _views(
        self, found: Published, index: IndexRow, fields: Mapping[str, Any]
    ) -> tuple[View, ...]:
        plan = self.plan
        digest, said = (index.sha256 or b"").hex(), fields.get("sha256")
        if found.sha256 and said and found.sha256 not in (said, digest):
            raise Unusable("picture-changed", "its sha256 is not the published one")
        if found.image.shape[1] != plan.width:
            raise Unusable("bad-embeddings", f"rows of {found.image.shape[1]}, not {plan.width}")
        if len(found.image) < plan.num_views:
            raise Unusable("too-few-views", f"{len(found.image)}")
        for rows in (found.image, found.text):
            for teacher in plan.teachers:
                own = rows[:, teacher.first : teacher.first + teacher.width]
                problem = next(filter(None, _rows(own).problems()), None)
                if problem is not None:
                    raise Unusable(problem, "a published row")
        sides: list[Any] = [index.width, index.height]
        if plan.crops_of == "original":
            sides = [fields.get("original_width"), fields.get("original_height")]
        if not all(isinstance(side, int) and side > 0 for side in sides):
            raise Unusable("no-original-size", "original_width, original_height")
        parameters = found.parameters[: plan.num_views]
        return tuple(to_view(parameter, (sides[0], sides[1])) for parameter in parameters)

    def _check_first(self, path: str, rows: list[_Row]) -> None:
        """Two data sets that do not belong together must not make an empty store, row by row."""
        judged = [row for row in rows if row.problem is None]
        done = self.store.done(self.plan.views)
        if done or len(judged) < _ENOUGH_TO_JUDGE or any(row.views for row in judged):
            return
        reasons = [row.unusable or "" for row in judged]
        usual = max(set(reasons), key=reasons.count)
        advice = _ADVICE.get(usual, "look at the published shards")
        raise ValueError(
            f"nothing published can be used for any of the {len(judged)} pictures of {path}, the "
            f"first shard: {reasons.count(usual)} x {usual}: {advice}"
        )

    def _unit(self, column: Column, rows: list[_Row]) -> tuple[pa.RecordBatch, list[str | None]]:
        """One column's rows for a shard, and why rows are null that are not null above it."""
        plan, keys = self.plan, [row.index.key for row in rows]
        nothing: list[str | None] = [None] * len(rows)
        if column is plan.index:
            return index_batch([row.index for row in rows]), [row.problem for row in rows]
        if column is plan.views:
            return views_batch(column, [row.views for row in rows], keys), [
                row.unusable for row in rows
            ]
        if column is plan.captions:
            reasons = [
                "no-caption" if not row.captions and row.problem is None else None for row in rows
            ]
            return captions_batch([row.captions or None for row in rows], keys), reasons
        if column is plan.synthetic:
            texts = [_synthetic(row) or None for row in rows]
            reasons = [
                (row.unusable or "no-caption") if text is None and row.problem is None else None
                for row, text in zip(rows, texts, strict=True)
            ]
            return captions_batch(texts, keys), reasons
        teacher = next(t for t in plan.teachers if column in (t.image, t.text, t.synthetic))
        codec = self._codecs.setdefault(column.name, codec_of(self.store.storage, column))
        if column is teacher.image:
            return _images(codec, teacher, plan.num_views, rows, keys), nothing
        return _texts(codec, teacher, column is teacher.synthetic, rows, keys)


def _json_of_samples(path: str) -> dict[str, dict[str, Any]]:
    """What the JSON members of a shard say of its samples, by key."""
    found: dict[str, dict[str, Any]] = {}
    with open_binary(path) as file:
        for key, members, problem in member_groups(path, file):
            member = members.get("json")
            if problem is not None or not isinstance(member, tarfile.TarInfo):
                continue
            if member.size <= MAX_TEXT_BYTES:
                file.seek(member.offset_data)
                found.setdefault(key, json_fields(file.read(member.size)))
    return found


def _decoded(_: int, sample: Sample) -> tuple[Sample, IndexRow, str | None]:
    """Decode as `reinforce` does, so that its index and this one are one."""
    nothing = IndexRow(key=sample.key)
    if sample.problem is not None:
        return sample, nothing, sample.problem
    try:
        image = decode_image(sample.image)
    except UnreadableImage as error:
        return sample, nothing, error.reason
    index = IndexRow(
        key=sample.key,
        offset=sample.offset,
        size=sample.size,
        width=image.width,
        height=image.height,
        sha256=hashlib.sha256(sample.image).digest(),
    )
    return sample, index, None


def _rows(values: np.ndarray) -> Rows:
    norms = np.linalg.norm(values.astype(np.float64), axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        unit = (values / norms[:, None]).astype(np.float32)
    return Rows(unit, norms.astype(np.float32))


def _joined(parts: list[np.ndarray], width: int) -> Rows:
    return _rows(np.concatenate([np.empty((0, width), np.float32), *parts]))


def _images(
    codec: Codec, teacher: TeacherColumns, num_views: int, rows: list[_Row], keys: list[str]
) -> pa.RecordBatch:
    own = slice(teacher.first, teacher.first + teacher.width)
    parts = [row.published.image[:num_views, own] for row in rows if row.published is not None]
    valid = np.array([row.published is not None for row in rows], dtype=bool)
    return image_batch(codec, _joined(parts, teacher.width), num_views, valid, keys)


def _synthetic(row: _Row) -> tuple[str, ...]:
    texts = row.published.synthetic if row.published is not None else ()
    return tuple(text.strip() for text in texts if text.strip())


def _texts(
    codec: Codec, teacher: TeacherColumns, synthetic: bool, rows: list[_Row], keys: list[str]
) -> tuple[pa.RecordBatch, list[str | None]]:
    own = slice(teacher.first, teacher.first + teacher.width)
    parts, counts = [], []
    reasons: list[str | None] = []
    for row in rows:
        published, picked, reason = row.published, [], None
        if published is not None:
            originals = len(published.text) - len(published.synthetic)
            said = enumerate(published.synthetic, originals)
            picked = [n for n, text in said if text.strip()] if synthetic else range(originals)
            if not synthetic and row.captions and len(row.captions) != originals:
                picked, reason = [], "other-number-of-captions"
            picked = picked if synthetic or row.captions else []
            parts.append(published.text[list(picked), own])
        elif row.captions and not synthetic:
            reason = row.unusable
        counts.append(len(picked))
        reasons.append(reason)
    batch = text_batch(codec, _joined(parts, teacher.width), np.array(counts, np.int64), keys)
    return batch, reasons
