"""From a store and its audit to what the page shows."""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from distill.health_page.alike import nearest_others, neighbour_lists, twin_pairs
from distill.health_page.data import (
    CaptionSet,
    ColumnFacts,
    HealthData,
    Histogram,
    Shown,
    SkippedReason,
    TeacherFacts,
)
from distill.health_page.sampling import StoreSample
from reinforced_data.auditing.auditing import AuditReport
from reinforced_data.store.columns import ORIGINAL, Column
from reinforced_data.store.commits import Skipped
from reinforced_data.store.layout import Store

_EXAMPLES = 5
_SHOWN = 8
_FREQUENT = 8


def collect(
    store: Store,
    report: AuditReport,
    *,
    samples: int = 4096,
    seed: int = 0,
    command: str = "",
    step: Callable[[], None] = lambda: None,
) -> HealthData:
    """Gather the page's numbers and pictures.

    Args:
        store: the store.
        report: its audit; damaged units are left out.
        samples: how many samples the distributions are drawn from.
        seed: of the draw.
        command: what was typed, for the page.
        step: called now and then; may raise to stop.
    """
    drawn = StoreSample(store, report, most=samples, seed=seed, step=step)
    captions = {
        column.name: drawn.captions(column) for column in drawn.columns if column.kind == "captions"
    }
    return HealthData(
        store=report.store,
        command=command,
        samples=report.counts["samples"],
        usable=report.counts["usable"],
        bytes=report.counts["bytes"],
        shards=report.counts["shards"],
        sampled=len(drawn.places),
        findings=[(finding.kind, finding.text) for finding in report.findings],
        notes=report.notes,
        columns=_columns(drawn.columns, report),
        skipped=_skipped(store, drawn.columns),
        pictures=_pictures(drawn.sizes),
        scores=[
            Histogram(title=column.identity["score"], unit="score", values=drawn.scores(column))
            for column in drawn.columns
            if column.kind == "scores"
        ],
        captions=[
            _caption_set(column.identity.get("set", column.name), captions[column.name])
            for column in drawn.columns
            if column.kind == "captions"
        ],
        teachers=_teachers(drawn, captions),
        versions=drawn.index.facts.get("versions", {}) if drawn.index else {},
    )


def _columns(columns: Sequence[Column], report: AuditReport) -> list[ColumnFacts]:
    by_name = {column.name: column for column in columns}
    found = []
    for numbers in report.columns:
        column = by_name[numbers.name]
        found.append(
            ColumnFacts(
                name=column.name,
                kind=column.kind.replace("_", " "),
                model=column.identity.get("teacher") or column.identity.get("captioner") or "",
                codec=column.identity.get("codec", ""),
                hangs_on=column.identity.get("hangs_on") or "",
                shards=numbers.shards,
                rows=numbers.rows,
                null_rows=numbers.null_rows,
                bytes=numbers.bytes,
            )
        )
    return found


def _skipped(store: Store, columns: Sequence[Column]) -> list[SkippedReason]:
    counts, examples = Counter[str](), defaultdict[str, list[str]](list)
    done = [(column, store.done(column)) for column in columns]
    for shard in range(store.num_shards):
        # A sample may lack the same in several columns; it is one sample.
        found = {
            (skip.row, skip.reason): skip.key
            for column, shards in done
            if shard in shards
            for skip in _skips(store, column, shard)
        }
        counts.update(reason for _, reason in found)
        name = store.sources[shard].rsplit("/", 1)[-1]
        for (_, reason), key in sorted(found.items()):
            if len(examples[reason]) < _EXAMPLES:
                examples[reason].append(f"{key} in {name}")
    return [
        SkippedReason(reason=reason, count=count, examples=examples[reason])
        for reason, count in counts.most_common()
    ]


def _skips(store: Store, column: Column, shard: int) -> Sequence[Skipped]:
    try:
        commit = store.commit(column, shard)
    except ValueError:
        return ()  # the audit's business
    return commit.skipped if commit else ()


def _pictures(sizes: np.ndarray) -> list[Histogram]:
    if not len(sizes):
        return []
    width, height, encoded = sizes.astype(np.float64).T
    return [
        Histogram(title="Shorter side", unit="pixels", values=np.minimum(width, height)),
        Histogram(title="Aspect ratio", unit="width / height", values=width / height),
        Histogram(title="Encoded size", unit="kB", values=encoded / 1000),
    ]


def _caption_set(name: str, captions: Sequence[list[str] | None]) -> CaptionSet:
    texts = [text for row in captions for text in row or ()]
    # A text that one sample has twice is not repeated by another one.
    owners = Counter(text for row in captions for text in set(row or ()))
    repeated = sum(owners[text] > 1 for text in texts)
    words = np.array([len(text.split()) for text in texts], dtype=np.float64)
    counts = np.array([len(row or ()) for row in captions], dtype=np.float64)
    return CaptionSet(
        name=name,
        texts=len(texts),
        repeated=repeated / max(1, len(texts)),
        words=Histogram(title="Words per caption", unit="words", values=words),
        per_sample=Histogram(title="Captions per sample", unit="captions", values=counts),
        frequent=[pair for pair in owners.most_common(_FREQUENT) if pair[1] > 1],
    )


def _teachers(
    drawn: StoreSample, captions: dict[str, list[list[str] | None]]
) -> list[TeacherFacts]:
    by_name = {column.name: column for column in drawn.columns}
    originals = [c for c in drawn.columns if c.identity.get("set") == ORIGINAL]
    texts = captions[originals[0].name] if originals else [None] * len(drawn.places)
    found = []
    for column in drawn.columns:
        views = by_name.get(column.identity.get("hangs_on", ""))
        if column.kind != "image_embeddings" or views is None:
            continue
        fingerprint = column.identity.get("teacher_fingerprint")
        beside = {
            by_name[other.identity["hangs_on"]].identity["set"]: other
            for other in drawn.columns
            if other.kind == "text_embeddings"
            and other.identity.get("teacher_fingerprint") == fingerprint
            and other.identity.get("hangs_on") in captions
        }
        rows = _TeacherRows(drawn, column, views, beside, texts)
        facts = rows.facts()
        if facts is not None:
            found.append(facts)
    return found


class _TeacherRows:
    """The sampled rows of one teacher, and what is shown of them."""

    def __init__(
        self,
        drawn: StoreSample,
        image: Column,
        views: Column,
        beside: Mapping[str, Column],
        captions: Sequence[list[str] | None],
    ) -> None:
        self._drawn, self._captions = drawn, captions
        view_set = views.identity.get("set")
        self._name = image.identity["teacher"] + (f", views {view_set}" if view_set else "")
        means, norms = drawn.image_rows(image, views)
        self._valid = np.flatnonzero(np.isfinite(means).all(1))
        self._rows, self._norms = means[self._valid], norms[self._valid]
        self._cosines = {
            name: (drawn.text_rows(column)[self._valid] * self._rows).sum(1)
            for name, column in beside.items()
        }
        nothing = np.full(len(self._valid), np.nan)
        self._scores = self._cosines.pop(ORIGINAL, nothing)

    def facts(self) -> TeacherFacts | None:
        """None when nothing of it can be read."""
        if len(self._valid) < 2:
            return None
        scored = np.flatnonzero(np.isfinite(self._scores))
        order = scored[np.argsort(self._scores[scored], kind="stable")]
        lowest, highest = order[:_SHOWN].tolist(), order[-_SHOWN:][::-1].tolist()
        twins = twin_pairs(self._rows, 6)
        around = neighbour_lists(self._rows, 5, 7)
        wanted = [*lowest, *highest, *(i for a, b, _ in twins for i in (a, b))]
        wanted += [i for query, others in around for i in (query, *(j for j, _ in others))]
        self._images = self._drawn.pictures([int(self._valid[i]) for i in wanted])
        scores = self._scores[scored]
        return TeacherFacts(
            name=self._name,
            scores=Histogram(
                title="Picture and caption", unit="cosine of the mean view and the first caption",
                values=scores,
            ) if len(scores) else None,
            written=self._written(),
            norms=Histogram(
                title="Norms of image rows", unit="norm before normalising",
                values=self._norms.reshape(-1),
            ),
            nearest=Histogram(
                title="Nearest other picture", unit="cosine", values=nearest_others(self._rows)
            ),
            lowest=[self._shown(i, f"{self._scores[i]:.3f}") for i in lowest],
            highest=[self._shown(i, f"{self._scores[i]:.3f}") for i in highest],
            twins=[
                (self._shown(a, f"{cos:.4f}"), self._shown(b, f"{cos:.4f}")) for a, b, cos in twins
            ],
            neighbours=[
                (self._shown(query), [self._shown(i, f"{cos:.3f}") for i, cos in others])
                for query, others in around
            ],
        )  # fmt: skip

    def _written(self) -> list[Histogram]:
        unit = "cosine of the mean view and the set's first caption"
        return [
            Histogram(title=f"Picture and caption: {name}", unit=unit, values=cosines)
            for name, cosines in self._cosines.items()
        ]

    def _shown(self, number: int, note: str = "") -> Shown:
        sample = int(self._valid[number])
        texts = self._captions[sample]
        return Shown(
            place=self._drawn.places[sample],
            key=self._drawn.keys[sample],
            image=self._images.get(sample, b""),
            caption=texts[0] if texts else "",
            note=note,
        )
