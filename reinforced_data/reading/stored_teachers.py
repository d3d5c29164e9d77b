"""What a store's columns are to a reader: one view set, and the teachers that saw its views."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from reinforced_data.codecs.codec import Codec
from reinforced_data.codecs.of_columns import codec_of
from reinforced_data.store.columns import DEFAULT, ORIGINAL, Column, view_set_of
from reinforced_data.store.storage import Storage
from teachers.contract import Kind
from teachers.suggestions import unknown_name


@dataclass(frozen=True, kw_only=True)
class StoredTeacher:
    """A teacher as a store remembers it.

    Attributes:
        name: as given to `load_teacher`.
        kind: softmax or sigmoid head.
        logit_scale: the factor itself.
        logit_bias: of a sigmoid head, else None.
        embed_dim: the width of its rows.
        fingerprint: of weights, precision, preprocessing and tokenizer.
        image: the column of its image rows.
        text: the column of its text rows for the original captions.
        texts: the same for every caption set that it has read, by the set's name.
        image_codec: how image rows are stored.
        text_codec: how text rows are stored.
    """

    name: str
    kind: Kind
    logit_scale: float
    logit_bias: float | None
    embed_dim: int
    fingerprint: str
    image: Column = field(repr=False)
    text: Column = field(repr=False)
    texts: Mapping[str, Column] = field(repr=False)
    image_codec: Codec = field(repr=False)
    text_codec: Codec = field(repr=False)


def chosen_views(where: str, columns: Sequence[Column], name: str | None) -> Column:
    """Return the views column of a set; for None the only one, or the default one.

    Raises:
        ValueError: there is no such set, none at all, or several of which none is the default.
    """
    sets = {view_set_of(column): column for column in columns if column.kind == "views"}
    if not sets:
        raise ValueError(f"{where} must have a column of kind views, it has none")
    if name is not None and name not in sets:
        raise ValueError(f"{where}: {unknown_name('view set', name, sets)}")
    if name is None and len(sets) > 1 and DEFAULT not in sets:
        raise ValueError(
            f"{where} has several view sets ({', '.join(sorted(sets))}) and none is the default: "
            "name one, open_dataset(path, view_set=...) or --data.view-set NAME"
        )
    return sets[name or (DEFAULT if DEFAULT in sets else next(iter(sets)))]


def stored_teachers(
    storage: Storage, columns: Sequence[Column], views: Column
) -> tuple[StoredTeacher, ...]:
    """List the teachers that have rows for these views and for the original captions."""
    found = []
    for image in columns:
        if image.kind != "image_embeddings" or image.identity["hangs_on"] != views.name:
            continue
        texts = _texts_of(columns, image)
        text = texts.get(ORIGINAL)
        if text is None:
            continue
        facts = image.facts["teacher"]
        found.append(
            StoredTeacher(
                name=image.identity["teacher"],
                kind=facts["kind"],
                logit_scale=facts["logit_scale"],
                logit_bias=facts["logit_bias"],
                embed_dim=facts["embed_dim"],
                fingerprint=image.identity["teacher_fingerprint"],
                image=image,
                text=text,
                texts=texts,
                image_codec=codec_of(storage, image),
                text_codec=codec_of(storage, text),
            )
        )
    return tuple(found)


def _texts_of(columns: Sequence[Column], image: Column) -> dict[str, Column]:
    """Return the text columns of the teacher that wrote an image column, by caption set."""
    sets = {c.name: c.identity["set"] for c in columns if c.kind == "captions"}
    found = {}
    for column in columns:
        parent = column.identity.get("hangs_on")
        if column.kind != "text_embeddings" or parent not in sets:
            continue
        if column.identity["teacher"] == image.identity["teacher"]:
            found[sets[parent]] = column
    # Rows of all sets go into one array.
    kept = ("teacher_fingerprint", "codec", "codebook")
    original = found.get(ORIGINAL)
    return {
        name: column
        for name, column in found.items()
        if original is not None
        and all(column.identity.get(key) == original.identity.get(key) for key in kept)
    }
