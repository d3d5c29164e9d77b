"""The columns of an import of DataCompDR: what was published, under names of its own.

What cannot be known of a published teacher (its weights' hash) is replaced by its name, so that
such a column is never taken for a live teacher's; give the live teachers to change that.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from reinforced_data.captions.plan import caption_sets
from reinforced_data.datacompdr.views import POLICY
from reinforced_data.operations import OPERATIONS, RENDER_VERSION
from reinforced_data.plan import check_same_settings, describe_teacher
from reinforced_data.store.columns import ORIGINAL, Column, make_column, view_set_of
from reinforced_data.store.layout import Store
from teachers import ClipModel, Preprocess
from teachers.catalog import licence_of

VIEW_SET = "datacompdr"
CAPTION_SET = "syn"
_LICENCE = "Apple's, see the data set's card (CC-BY-NC-ND 4.0 when this was written)"

CropsOf = Literal["picture", "original"]


@dataclass(frozen=True, kw_only=True)
class PublishedTeacher:
    """One of the teachers whose rows lie side by side.

    Attributes:
        name: as `load_teacher` has it.
        embed_dim: how many of the numbers are its.
        logit_scale: the factor itself.
    """

    name: str
    embed_dim: int
    logit_scale: float


DATACOMPDR = (
    PublishedTeacher(name="ViT-L-14/openai", embed_dim=768, logit_scale=100.0),
    PublishedTeacher(name="ViT-L-14/datacomp_xl_s13b_b90k", embed_dim=768, logit_scale=100.0),
)
"""Of DataCompDR-12M, its bfloat16 edition and DataCompDR-1B, in their order."""


@dataclass(frozen=True, kw_only=True)
class TeacherColumns:
    """Where one teacher's numbers go, and which of them are its."""

    first: int
    width: int
    image: Column
    text: Column
    synthetic: Column


@dataclass(frozen=True, kw_only=True)
class ImportPlan:
    """The columns of one call, in the order in which they are committed."""

    index: Column
    captions: Column
    synthetic: Column
    views: Column
    teachers: tuple[TeacherColumns, ...]
    num_views: int
    crops_of: CropsOf
    captions_from: str | None

    @property
    def columns(self) -> tuple[Column, ...]:
        """All of them."""
        own = [column for t in self.teachers for column in (t.image, t.text, t.synthetic)]
        return (self.index, self.captions, self.synthetic, self.views, *own)

    @property
    def width(self) -> int:
        """How many numbers a published row has."""
        return sum(teacher.width for teacher in self.teachers)


def make_import_plan(
    store: Store,
    *,
    num_views: int,
    codec: str,
    crops_of: CropsOf,
    captions_from: str | None,
    teachers: Sequence[PublishedTeacher | ClipModel],
) -> ImportPlan:
    """Name the columns and write their JSON files.

    Raises:
        ValueError: the store has other columns of these names.
    """
    index = make_column("index", "index", {})
    captions = _captions(index, ORIGINAL, {"captions_from": captions_from})
    synthetic = _captions(index, CAPTION_SET, {"imported": "DataCompDR"})
    views = _views(index, num_views, crops_of)
    plan = ImportPlan(
        index=index,
        captions=captions,
        synthetic=synthetic,
        views=views,
        teachers=tuple(_teachers(teachers, codec, views, captions, synthetic)),
        num_views=num_views,
        crops_of=crops_of,
        captions_from=captions_from,
    )
    _check_conflicts(store, plan)
    for column in plan.columns:
        store.add_column(column)
    return plan


def _captions(index: Column, name: str, more: dict[str, Any]) -> Column:
    # The original set's is exactly what `reinforce` writes: live teachers can join it.
    facts = {} if name == ORIGINAL else {"licence": _LICENCE}
    identity = {"set": name, **more, "hangs_on": index.name}
    return make_column("captions", f"captions-{name}", identity, facts)


def _views(index: Column, num_views: int, crops_of: CropsOf) -> Column:
    identity = {
        "policy": POLICY.config(),
        "num_views": num_views,
        "hangs_on": index.name,
        "render_version": RENDER_VERSION,
        "set": VIEW_SET,
        "imported": "DataCompDR",
        "crops_of": crops_of,
    }
    facts = {"operations": list(OPERATIONS), "licence": _LICENCE}
    return make_column("views", f"views-{VIEW_SET}", identity, facts)


def _teachers(
    teachers: Sequence[PublishedTeacher | ClipModel],
    codec: str,
    views: Column,
    captions: Column,
    synthetic: Column,
) -> list[TeacherColumns]:
    found, first = [], 0
    for teacher in teachers:
        name, facts, fingerprint = teacher.name, *_known_of(teacher)
        identity = {"teacher": name, "teacher_fingerprint": fingerprint, "codec": codec}
        made = [
            make_column(kind, slug, {**identity, "hangs_on": parent.name}, facts)
            for kind, slug, parent in (
                ("image_embeddings", f"image-{name}-{VIEW_SET}", views),
                ("text_embeddings", f"text-{name}", captions),
                ("text_embeddings", f"text-{name}-{CAPTION_SET}", synthetic),
            )
        ]
        width = teacher.embed_dim
        found.append(
            TeacherColumns(first=first, width=width, image=made[0], text=made[1], synthetic=made[2])
        )
        first += width
    return found


def _known_of(teacher: PublishedTeacher | ClipModel) -> tuple[dict[str, Any], str]:
    """Facts and fingerprint."""
    if not isinstance(teacher, PublishedTeacher):
        facts = {"teacher": describe_teacher(teacher), "published": True}
        return facts, str(teacher.fingerprint)
    model, _, tag = teacher.name.partition("/")
    facts = {
        "kind": "softmax",
        "logit_scale": teacher.logit_scale,
        "logit_bias": None,
        "embed_dim": teacher.embed_dim,
        "precision": "as published",
        "licence": licence_of(model, tag),
        "preprocess": Preprocess(image_size=224).config(),
        "context_length": 77,
    }
    digest = hashlib.sha256(f"published with DataCompDR: {teacher.name}".encode()).hexdigest()
    return {"teacher": facts, "published": True}, digest


def _check_conflicts(store: Store, plan: ImportPlan) -> None:
    stored = store.columns()
    sets = [c for c in stored if c.kind == "views" and view_set_of(c) == VIEW_SET]
    check_same_settings(store, sets, plan.views, f"view set {VIEW_SET!r}", "the same options")
    known = caption_sets(stored)
    for column in (plan.captions, plan.synthetic):
        name = column.identity["set"]
        same = [known[name]] if name in known else []
        check_same_settings(store, same, column, f"caption set {name!r}", "the same options")
    for column in (column for t in plan.teachers for column in (t.image, t.text, t.synthetic)):
        same = [
            c
            for c in stored
            if c.kind == column.kind
            and c.identity["teacher"] == column.identity["teacher"]
            and c.identity["hangs_on"] == column.identity["hangs_on"]
        ]
        check_same_settings(store, same, column, f"teacher {column.identity['teacher']!r}")
