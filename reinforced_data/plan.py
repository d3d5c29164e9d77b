"""What a call of `reinforce` asks for, as columns, held against what the store has already."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from reinforced_data.attention import attention_column
from reinforced_data.codecs.codebooks import Probe, fit_image_codebook, fit_text_codebook
from reinforced_data.codecs.of_columns import codebook_path
from reinforced_data.codecs.product_quantization import NUM_BYTES, codebook_digest
from reinforced_data.imported_views import imported_views
from reinforced_data.operations import OPERATIONS, RENDER_VERSION
from reinforced_data.resampling import check_render_version
from reinforced_data.store.columns import (
    DEFAULT,
    ORIGINAL,
    Column,
    make_column,
    slugify,
    view_set_of,
)
from reinforced_data.store.layout import Store
from reinforced_data.views import ViewPolicy
from teachers import ClipModel
from teachers.suggestions import unknown_name


@dataclass(frozen=True, kw_only=True)
class TeacherColumns:
    """A teacher and where its embeddings go; None for a modality that it lacks."""

    teacher: ClipModel
    image: Column | None
    text: Column | None
    attention: Column | None = None

    @property
    def columns(self) -> tuple[Column, ...]:
        """Those that it has."""
        return tuple(filter(None, (self.image, self.text, self.attention)))


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The columns of one call, in the order in which they are committed."""

    index: Column
    captions: Column
    views: Column
    teachers: tuple[TeacherColumns, ...]
    policy: ViewPolicy
    num_views: int
    seed: int
    codec: str
    captions_from: str | None

    @property
    def render_version(self) -> int:
        """How its views are rendered; see `RESAMPLERS`."""
        return self.views.identity["render_version"]

    @property
    def columns(self) -> tuple[Column, ...]:
        """All of them."""
        every = [column for entry in self.teachers for column in entry.columns]
        return (self.index, self.captions, self.views, *every)


def make_plan(
    store: Store,
    teachers: Sequence[ClipModel],
    *,
    view_set: str = DEFAULT,
    policy: ViewPolicy,
    num_views: int,
    seed: int,
    codec: str,
    captions_from: str | None,
    attention: str | None = None,
) -> Plan:
    """Name the columns and write their JSON files.

    Raises:
        ValueError: the store has another view set of this name, another set of original captions,
            or another teacher of the same name; the name is no name; or this release lacks the
            way in which the store's views are rendered.
    """
    _check_view_set_name(view_set)
    index = make_column("index", "index", {})
    captions = make_column(
        "captions",
        f"captions-{ORIGINAL}",
        {"set": ORIGINAL, "captions_from": captions_from, "hangs_on": index.name},
    )
    there = [column for column in store.columns("views") if view_set_of(column) == view_set]
    render_version = _render_version(there)
    asked = {"policy": policy, "num_views": num_views, "seed": seed}
    imported = imported_views(store, there, **asked)
    if imported is not None:  # what a codebook is fitted to is drawn in the same way
        policy = ViewPolicy.from_config(imported.identity["policy"])
    views = imported or _views_column(index, view_set, policy, num_views, seed, render_version)
    probe = Probe(
        store=store,
        policy=policy,
        num_views=num_views,
        seed=seed,
        render_version=render_version,
        captions_from=captions_from,
    )
    entries = [_teacher_columns(probe, teacher, codec, views, captions) for teacher in teachers]
    entries = _with_attention(entries, attention, views)
    plan = Plan(
        index=index,
        captions=captions,
        views=views,
        teachers=tuple(entries),
        policy=policy,
        num_views=num_views,
        seed=seed,
        codec=codec,
        captions_from=captions_from,
    )
    _check_conflicts(store, plan)
    for column in plan.columns:
        store.add_column(column)
    # The store's own table of operations decides what the codes mean, not this release's.
    return replace(plan, views=store.add_column(views))


def _check_view_set_name(name: str) -> None:
    if not name or slugify(name) != name:
        raise ValueError(
            f"a view set's name is lower-case letters, digits and single hyphens, got {name!r}"
        )


def _render_version(there: Sequence[Column]) -> int:
    """Return the view set's own: what was begun with one rendering is completed with it."""
    for column in there:
        check_render_version(column.identity["render_version"], f"column {column.name}")
        return column.identity["render_version"]
    return RENDER_VERSION


def _views_column(
    index: Column,
    view_set: str,
    policy: ViewPolicy,
    num_views: int,
    seed: int,
    render_version: int,
) -> Column:
    identity = {
        "policy": policy.config(),
        "num_views": num_views,
        "seed": seed,
        "hangs_on": index.name,
        "render_version": render_version,
    }
    slug = "views"
    if view_set != DEFAULT:
        # The default set has no name on disk: stores were written before there were others.
        identity["set"] = view_set
        slug = f"views-{view_set}"
    return make_column("views", slug, identity, {"operations": list(OPERATIONS)})


def _teacher_columns(
    probe: Probe, teacher: ClipModel, codec: str, views: Column, captions: Column
) -> TeacherColumns:
    fingerprint = getattr(teacher, "fingerprint", None)
    if fingerprint is None:
        raise ValueError(
            f"{teacher.name} is a {type(teacher).__name__} without a fingerprint; teachers come "
            "from load_teacher(...), which also takes a ready module"
        )
    identity = {"teacher": teacher.name, "teacher_fingerprint": fingerprint, "codec": codec}
    facts = {"teacher": describe_teacher(teacher)}
    slug = "-".join([f"image-{teacher.name}", *filter(None, [views.identity.get("set")])])
    image = make_column("image_embeddings", slug, {**identity, "hangs_on": views.name}, facts)
    text = make_column(
        "text_embeddings", f"text-{teacher.name}", {**identity, "hangs_on": captions.name}, facts
    )
    made = {"image": image, "text": text}
    # A column's own fingerprint says what its teacher had to embed.
    having = {name: column for name, column in made.items() if name in teacher.modalities}
    if codec in NUM_BYTES:
        having = {n: _with_codebook(probe, teacher, column) for n, column in having.items()}
    return TeacherColumns(teacher=teacher, image=having.get("image"), text=having.get("text"))


def _with_attention(
    entries: Sequence[TeacherColumns], name: str | None, views: Column
) -> list[TeacherColumns]:
    """Ask one teacher for its attention too."""
    names = [entry.teacher.name for entry in entries]
    if name is not None and name not in names:
        raise ValueError(f"attention: {unknown_name('teacher', name, names)}")
    return [
        replace(entry, attention=attention_column(entry.teacher, views))
        if entry.teacher.name == name
        else entry
        for entry in entries
    ]


def _with_codebook(probe: Probe, teacher: ClipModel, column: Column) -> Column:
    """Add the codebook in the store to a column's identity, or fit one and write it down."""
    for stored in probe.store.columns(column.kind):
        if {**stored.identity, "codebook": None} == {**column.identity, "codebook": None}:
            return stored
    fit = fit_image_codebook if column.kind == "image_embeddings" else fit_text_codebook
    codebook = fit(probe, teacher, column.identity["codec"])
    identity = {**column.identity, "codebook": codebook_digest(codebook)}
    made = make_column(column.kind, column.name.rpartition("-")[0], identity, column.facts)
    probe.store.storage.create(codebook_path(made), codebook.tobytes())
    return made


def describe_teacher(teacher: ClipModel) -> dict[str, Any]:
    """Return what a column's `facts.teacher` says; the scale is the factor itself."""
    bias, both = teacher.logit_bias, len(teacher.modalities) == 2
    return {
        "kind": teacher.kind if both else None,
        "logit_scale": float(teacher.logit_scale.detach().float().exp()) if both else None,
        "logit_bias": None if bias is None else float(bias.detach()),
        "embed_dim": teacher.embed_dim,
        "precision": getattr(teacher, "precision", "fp32"),
        "licence": getattr(teacher, "licence", None),
        "preprocess": teacher.preprocess.config(),
        "context_length": teacher.tokenizer.context_length,
        # Columns without this are of both.
        **({} if both else {"modalities": list(teacher.modalities)}),
    }


def _check_conflicts(store: Store, plan: Plan) -> None:
    stored = store.columns()
    name = view_set_of(plan.views)
    sets = [c for c in stored if c.kind == "views" and view_set_of(c) == name]
    beside = "another name (view_set=..., --view-set NAME), which puts a second set beside it"
    check_same_settings(store, sets, plan.views, f"view set {name!r}", beside)
    originals = [c for c in stored if c.kind == "captions" and c.identity.get("set") == ORIGINAL]
    check_same_settings(store, originals, plan.captions, "set of original captions")
    for entry in plan.teachers:
        for column in filter(None, (entry.image, entry.text)):
            same_name = [
                c
                for c in stored
                if c.kind == column.kind
                and c.identity.get("teacher") == entry.teacher.name
                and (
                    c.identity["hangs_on"] == column.identity["hangs_on"]
                    or c.identity["teacher_fingerprint"] != column.identity["teacher_fingerprint"]
                )
            ]
            check_same_settings(store, same_name, column, f"teacher {entry.teacher.name!r}")


def check_same_settings(
    store: Store,
    stored: Iterable[Column],
    wanted: Column,
    what: str,
    rename: str = "another name (load_teacher(..., name=...))",
) -> None:
    """Refuse a column whose name means something else in the store; `rename` is the way out."""
    for column in stored:
        if column.fingerprint == wanted.fingerprint:
            continue
        differences = [
            f"{name} is {column.identity.get(name)!r}, you give {wanted.identity.get(name)!r}"
            for name in sorted(column.identity | wanted.identity)
            if column.identity.get(name) != wanted.identity.get(name)
        ]
        raise ValueError(
            f"{store.name} has another {what} already ({column.name}): {'; '.join(differences)}. "
            f"Give the same settings, {rename}, or another folder"
        )
