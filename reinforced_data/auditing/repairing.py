"""`repair`: do again what an audit finds damaged, and nothing else.

Views, captions and the index are derived from the source alone; embeddings need the teacher that
wrote them, written captions their captioner (repairing_captions.py). Samples of a column that a
replay finds wrong are looked at in every shard first. A unit is replaced when its successor is
whole, so whoever is killed gives the same command again. What was imported, or whose maker is not
given, is left and named. One repair of a store at a time.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reinforced_data.auditing.auditing import AuditReport, audit_once, examine_files
from reinforced_data.auditing.bar import AuditBar
from reinforced_data.auditing.files import FileFindings
from reinforced_data.auditing.findings import Finding
from reinforced_data.auditing.progress_file import ProgressFile
from reinforced_data.auditing.repairing_captions import (
    IMPORTED,
    is_written,
    plan_of_set,
    redo_text_rows,
    rows_of_set,
)
from reinforced_data.auditing.repairing_store import RepairStore
from reinforced_data.auditing.sources import choose_rows, read_pictures
from reinforced_data.auditing.teachers import replay_column
from reinforced_data.captions.caption_work import CaptionWork
from reinforced_data.captions.plan import CaptionPlan
from reinforced_data.imported_views import is_imported
from reinforced_data.plan import Plan, TeacherColumns
from reinforced_data.resampling import check_render_version
from reinforced_data.shard_pass import reinforce_shard
from reinforced_data.store.columns import ORIGINAL, Column, modalities_of
from reinforced_data.store.layout import open_store
from reinforced_data.store.leftovers import remove_leftovers
from reinforced_data.view_policy import ViewPolicy
from teachers import Captioner, ClipModel

_PER_SHARD = 8
_ROUNDS = 3
_GOES_ON = "what is repaired is whole, and the same command goes on"
_SOURCE = ("changed-source", "changed-images", "missing-source")


@dataclass(frozen=True, kw_only=True)
class RepairReport:
    """What a repair did.

    Attributes:
        redone: (column, shard, kind of finding) of each unit that was done again.
        left: what could not be done again, and why.
        audit: of the store as it is now.
    """

    redone: tuple[tuple[str, int, str], ...]
    left: tuple[str, ...]
    audit: AuditReport

    def to_json(self) -> dict[str, Any]:
        """Return the audit's JSON values with `redone` and `left`."""
        redone = [dict(zip(("column", "shard", "why"), unit, strict=True)) for unit in self.redone]
        return {**self.audit.to_json(), "redone": redone, "left": list(self.left)}


def repair(
    store: str | Path,
    *,
    teachers: ClipModel | Iterable[ClipModel] = (),
    captioners: Sequence[Captioner] = (),
    replay: int = 64,
    max_error: float = 0.1,
    seed: int = 0,
    batch_size: int = 256,
    progress: bool = True,
    progress_file: str | Path | None = None,
) -> RepairReport:
    """Audit a store, do the damaged units again, and audit it once more.

    Args:
        store: its folder or URL.
        teachers: those whose embeddings may have to be written again, loaded as they were then.
        captioners: those whose caption sets may have to be written again, set up as they were then.
        replay, max_error, seed: see `audit`.
        batch_size: views, or texts, per call of a teacher; that of `reinforce` gives equal bytes.
        progress: whether to draw a progress bar on stderr.
        progress_file: see `audit`. With it the audits that follow read only what has changed.

    Raises:
        ValueError: there is no store, its list of sources is damaged, or a source shard that is
            needed is missing or changed; nothing of that shard was replaced.
        OSError: the store cannot be written.
        Interrupted: SIGINT, SIGTERM or SIGUSR1 came; the same call goes on.
    """
    members = [teachers] if isinstance(teachers, ClipModel) else list(teachers)
    kept = None if progress_file is None else ProgressFile(progress_file)
    settings = {"replay": replay, "max_error": max_error, "seed": seed, "progress": progress}
    report = audit_once(store, members, kept, **settings)
    if report.findings and report.findings[0].kind == "damaged-sources":
        raise ValueError(report.problems[0])
    work = _Repair(RepairStore(open_store(store)), members, captioners, batch_size, kept)
    for _ in range(_ROUNDS):
        # Views that are right again may bring to light embeddings that never were.
        with AuditBar(progress, lambda: _GOES_ON) as bar:
            done = work.run(report, bar, max_error=max_error, seed=seed)
        if not done:
            break
        report = audit_once(store, members, kept, **settings)
    if kept is not None:
        kept.finished()
    return RepairReport(
        redone=tuple((column, shard, why) for (column, shard), why in work.store.redone),
        left=tuple(dict.fromkeys(work.left)),
        audit=report,
    )


@dataclass
class _Repair:
    """What is repaired, by whom, and what had to be left."""

    store: RepairStore
    teachers: Sequence[ClipModel]
    captioners: Sequence[Captioner]
    batch_size: int
    kept: ProgressFile | None = None
    left: list[str] = field(default_factory=list)

    def run(self, report: AuditReport, bar: AuditBar, *, max_error: float, seed: int) -> int:
        """Do again what this audit found; return how many units."""
        self.left.clear()
        columns = {column.name: column for column in self.store.columns()}
        units = dict[tuple[str, int], Finding]()
        for finding in report.findings:
            for unit in finding.units:
                if unit[0] in columns and self._can_redo(columns[unit[0]]):
                    units.setdefault(unit, finding)
        wrong = {f.column for f in report.findings if f.kind == "wrong-rows"} & columns.keys()
        if wrong:
            units |= self._in_all_shards(report, sorted(filter(None, wrong)), bar, max_error, seed)
        for (name, shard), finding in list(units.items()):
            if is_written(columns[name]):  # so are their rows
                rows = rows_of_set(self.store, columns[name])
                units |= {(column.name, shard): finding for column in rows}
        done = dict(self.store.redone)  # what is wrong still will not be right the third time
        units = {unit: f for unit, f in units.items() if unit not in done}
        self._refuse_changed(report, columns, units)
        before = len(self.store.redone)
        for unit, finding in units.items():
            self.store.add(unit, finding)
        by_shard = defaultdict[int, list[Column]](list)
        for name, shard in units:
            by_shard[shard].append(columns[name])
        bar.begin("repairs", len(units))
        for shard, damaged in sorted(by_shard.items()):
            self._redo(shard, damaged, columns, bar)
        if units:
            remove_leftovers(self.store)
        return len(self.store.redone) - before

    def _can_redo(self, column: Column) -> bool:
        kind, identity = column.kind, column.identity
        why = ""
        if kind in ("image_embeddings", "text_embeddings"):
            if column.facts.get("published") and self._teacher(column) is None:
                why = IMPORTED
            elif kind == "image_embeddings" and not self._stands_alone(column):
                why = "has no column of its teacher's texts beside it: import both again"
            elif self._teacher(column) is None:
                why = (
                    f"needs its teacher {identity['teacher']}, fingerprint "
                    f"{identity['teacher_fingerprint'][:12]}: give --teachers, with the precision "
                    "of then"
                )
        elif is_written(column):
            plan = self._plan_of_set(column)
            why = plan if isinstance(plan, str) else ""
        elif kind == "views" and is_imported(column):
            why = IMPORTED
        elif kind not in ("index", "captions", "views"):
            why = f"is of the kind {kind}, which only its maker can write again"
        if why:
            self.left.append(f"column {column.name} {why}")
        return not why

    def _teacher(self, column: Column) -> ClipModel | None:
        wanted = column.identity.get("teacher_fingerprint")
        return next((t for t in self.teachers if getattr(t, "fingerprint", "") == wanted), None)

    def _stands_alone(self, column: Column) -> bool:
        """Whether its teacher's texts are there as well, or it reads none."""
        return "text" not in modalities_of(column) or self.store.source_texts_of(column) is not None

    def _in_all_shards(
        self, report: AuditReport, names: list[str], bar: AuditBar, max_error: float, seed: int
    ) -> dict[tuple[str, int], Finding]:
        """A replay looks at a few samples of all shards; here at a few of each."""
        found = examine_files(self.store, bar, self.kept)
        index = found.of_kind("index")[0].column
        causes = {f.column: f for f in report.findings if f.kind == "wrong-rows"}
        units = {}
        bar.begin("shards", self.store.num_shards)
        for shard in range(self.store.num_shards):
            chosen = choose_rows(found, {shard}, _PER_SHARD, seed)
            images = read_pictures(self.store, index, chosen).same if chosen else {}
            for name in names:
                if self._is_wrong(found, name, images, max_error):
                    units[name, shard] = causes[name]
            bar.step()
        return units

    def _is_wrong(self, found: FileFindings, name: str, images: dict, max_error: float) -> bool:
        entry = found.named(name)
        teacher = self._teacher(entry.column) if entry else None
        if entry is None or teacher is None:
            return False
        rows = replay_column(self.store, found, teacher, entry, images, max_error)
        return rows is not None and bool((rows.errors > rows.tolerance).any())

    def _refuse_changed(
        self,
        report: AuditReport,
        columns: dict[str, Column],
        units: Iterable[tuple[str, int]],
    ) -> None:
        changed = {s: f.text for f in report.findings if f.kind in _SOURCE for s in f.shards}
        for name, shard in units:
            if shard in changed and columns[name].kind != "text_embeddings":
                raise ValueError(
                    f"column {name}, shard {shard}, is damaged and cannot be made again: "
                    f"{changed[shard]}"
                )

    def _redo(
        self, shard: int, damaged: list[Column], columns: dict[str, Column], bar: AuditBar
    ) -> None:
        views = [c for c in columns.values() if c.kind == "views"]
        hanging = {c.identity["hangs_on"] for c in damaged if c.kind == "image_embeddings"}
        hanging |= {c.name for c in damaged if c.kind == "views"}
        derived = any(c.kind in ("index", "captions") and not is_written(c) for c in damaged)
        wanted = [c for c in views if c.name in hanging] or (views[:1] if derived else [])
        for view_set in wanted:
            plan = self._plan(columns.values(), view_set, damaged)
            reinforce_shard(
                self.store,
                plan,
                shard,
                batch_size=self.batch_size,
                on_sample=lambda size: None,
                between_batches=bar.check,
            )
        for column in sorted(damaged, key=is_written, reverse=True):  # texts before their rows
            if (column.name, shard) in self.store.damaged and is_written(column):
                plan = self._plan_of_set(column)
                assert not isinstance(plan, str)
                CaptionWork(self.store, plan).shard(shard, bar.check, lambda size: None)
            elif (column.name, shard) in self.store.damaged:
                teacher, captions = self._teacher(column), columns[column.identity["hangs_on"]]
                assert column.kind == "text_embeddings" and teacher is not None
                batch = self.batch_size
                redo_text_rows(self.store, column, captions, shard, teacher, batch, bar.check)
            bar.step()

    def _plan_of_set(self, captions: Column) -> CaptionPlan | str:
        return plan_of_set(self.store, captions, self.captioners, self.teachers, self.batch_size)

    def _plan(self, columns: Iterable[Column], views: Column, damaged: list[Column]) -> Plan:
        identity = views.identity
        check_render_version(identity["render_version"], f"column {views.name}")
        (index,) = [c for c in columns if c.kind == "index"]
        (captions,) = [
            c for c in columns if c.kind == "captions" and c.identity.get("set") == ORIGINAL
        ]
        entries = []
        for column in damaged:
            teacher, texts = self._teacher(column), self.store.source_texts_of(column)
            if column.identity.get("hangs_on") == views.name and teacher:
                entries.append(TeacherColumns(teacher=teacher, image=column, text=texts))
        return Plan(
            index=index,
            captions=captions,
            views=views,
            teachers=tuple(entries),
            policy=ViewPolicy.from_config(identity["policy"]),
            num_views=identity["num_views"],
            # Imported views have none, and are not drawn again.
            seed=identity.get("seed", 0),
            codec="",
            captions_from=captions.identity.get("captions_from"),
        )
